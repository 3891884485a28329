/*
 * Embeds an 82540EM, plays its driver, and leads what it sends back into it.
 *
 *   cargo build --release -p nic-emu-c
 *   cc -I crates/nic-emu-c/include crates/nic-emu-c/examples/loop.c target/release/libnic_emu_c.a -lpthread -ldl -lm -lgcc_s
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nic_emu.h"

/* Registers and bits of the 8254x manual, chapter 13. */
enum {
    CTRL = 0x0, ICR = 0xC0, IMS = 0xD0, RCTL = 0x100, TCTL = 0x400,
    RDBAL = 0x2800, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818,
    TDBAL = 0x3800, TDLEN = 0x3808, TDT = 0x3818, RAL = 0x5400, RAH = 0x5404,
    CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, ENABLE = 1 << 1, BROADCAST = 1 << 15,
    WUFC = 0x5808, WUPL = 0x5900, WUFC_MAG = 1 << 1,
    TXDW = 1 << 0, LSC = 1 << 2, RXT0 = 1 << 7,
    CMD_EOP_IFCS_RS = 0x0B, STATUS_DD = 1, STATUS_EOP = 2
};

/* The guest's memory, at bus address 0x100000: two rings of 8 descriptors, a frame to send, 8 buffers of 2 KiB. */
enum { RAM = 0x100000, TX_RING = RAM, RX_RING = RAM + 0x100, TX_FRAME = RAM + 0x1000, RX_BUFFERS = RAM + 0x2000 };
enum { RING = 8, BUFFER = 2048 };

/* What the callbacks are about. */
struct machine {
    uint8_t ram[0x8000];
    uint8_t wire[2048];
    size_t on_wire;
    bool line;
    int interrupts;
    int ready;
    bool wake;
};

static struct machine pc;
static NicEmu *nic;
static uint64_t now;

static void check(bool good, const char *what) {
    if (!good) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}
#define CHECK(what) check((what), #what)

static void done(NicEmuStatus status) {
    check(status == NIC_EMU_STATUS_OK, nic_emu_status_text(status));
}

/* --- What the embedder does for the NIC --- */

static uint8_t *at(struct machine *m, uint64_t addr, size_t len) {
    if (addr < RAM || addr - RAM > sizeof m->ram || len > sizeof m->ram - (size_t)(addr - RAM))
        return NULL;
    return m->ram + (addr - RAM);
}

static bool dma_read(void *opaque, uint64_t addr, void *to, size_t len) {
    uint8_t *from = at(opaque, addr, len);
    if (from != NULL)
        memcpy(to, from, len);
    return from != NULL;
}

static bool dma_write(void *opaque, uint64_t addr, const void *from, size_t len) {
    uint8_t *to = at(opaque, addr, len);
    if (to != NULL)
        memcpy(to, from, len);
    return to != NULL;
}

/* The frame has to wait on the wire: within a callback the NIC takes no calls. */
static bool transmit(void *opaque, const uint8_t *frame, size_t len) {
    struct machine *m = opaque;
    if (m->on_wire != 0 || len > sizeof m->wire)
        return false;
    memcpy(m->wire, frame, len);
    m->on_wire = len;
    return true;
}

static void interrupt(void *opaque, bool level) {
    struct machine *m = opaque;
    m->line = level;
    m->interrupts += level;
}

static void receive_ready(void *opaque) {
    struct machine *m = opaque;
    m->ready++;
}

static void pme(void *opaque, bool asserted) {
    struct machine *m = opaque;
    m->wake = asserted;
}

/* --- What the guest does --- */

static uint32_t get(uint64_t reg) {
    uint64_t value;
    done(nic_emu_read(nic, 0, reg, 4, &value, now));
    return (uint32_t)value;
}

static void set(uint64_t reg, uint32_t value) {
    done(nic_emu_write(nic, 0, reg, 4, value, now));
}

static void store(uint64_t addr, uint64_t value) {
    uint8_t *to = at(&pc, addr, 8);
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t load(uint64_t addr) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at(&pc, addr, 8)[i];
    return value;
}

int main(void) {
    CHECK(nic_emu_abi() == NIC_EMU_ABI);
    const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    const NicEmuCallbacks callbacks = {&pc, dma_read, dma_write, transmit, interrupt, receive_ready, pme};
    done(nic_emu_create_82540em(mac, &callbacks, &nic));

    NicEmuPci pci;
    done(nic_emu_pci(nic, &pci));
    printf("libnic-emu %s: %04x:%04x, %" PRIu32 " bytes of registers, %" PRIu32 " capability\n", nic_emu_version(),
           pci.vendor, pci.device, pci.bars[0].size, pci.capability_count);

    /* The bus comes up, the cable is plugged in, the driver resets its NIC and asks for interrupts. */
    done(nic_emu_set_bus_master(nic, true, now));
    done(nic_emu_set_link(nic, true, now));
    set(CTRL, CTRL_RST);
    CHECK(get(RAL) == 0x12005452 && (get(RAH) & 0xFFFF) == 0x5634);
    get(ICR);
    set(IMS, TXDW | LSC | RXT0);
    set(CTRL, CTRL_SLU);

    /* This program's clock jumps from one deadline to the next. */
    bool link = false;
    while (!link) {
        uint64_t deadline;
        done(nic_emu_deadline(nic, &deadline));
        CHECK(deadline != NIC_EMU_NEVER);
        now = deadline > now ? deadline : now;
        done(nic_emu_run_timers(nic, now));
        done(nic_emu_link(nic, &link));
    }
    CHECK(pc.line && (get(ICR) & LSC) && !pc.line);
    printf("link is up after %.1f ms, and the guest was interrupted\n", (double)now / 1e6);

    /* Rings: all receive buffers but one are the NIC's. */
    for (int i = 0; i < RING; i++)
        store(RX_RING + 16 * i, RX_BUFFERS + BUFFER * i);
    set(RDBAL, RX_RING);
    set(RDLEN, RING * 16);
    set(RDT, RING - 1);
    set(RCTL, ENABLE | BROADCAST);
    set(TDBAL, TX_RING);
    set(TDLEN, RING * 16);
    set(TCTL, ENABLE);

    /* One frame, to ourselves. */
    uint8_t frame[128] = {0};
    memcpy(frame, mac, 6);
    memcpy(frame + 6, mac, 6);
    memcpy(frame + 12, "\x88\xb5 hello, me", 13);
    memcpy(at(&pc, TX_FRAME, sizeof frame), frame, sizeof frame);
    store(TX_RING, TX_FRAME);
    store(TX_RING + 8, (uint64_t)CMD_EOP_IFCS_RS << 24 | sizeof frame);
    set(TDT, 1);
    CHECK(pc.on_wire == sizeof frame && memcmp(pc.wire, frame, sizeof frame) == 0);
    CHECK(load(TX_RING + 8) >> 32 & STATUS_DD);
    CHECK(pc.line && (get(ICR) & TXDW) && !pc.line);
    printf("%zu bytes are on the wire\n", pc.on_wire);

    done(nic_emu_receive(nic, pc.wire, pc.on_wire, now));
    uint64_t word = load(RX_RING + 8);
    CHECK((word >> 32 & 0xFF & (STATUS_DD | STATUS_EOP)) == (STATUS_DD | STATUS_EOP));
    CHECK((word & 0xFFFF) == sizeof frame + 4); /* and its FCS */
    CHECK(memcmp(at(&pc, RX_BUFFERS, sizeof frame), frame, sizeof frame) == 0);
    CHECK(pc.line && (get(ICR) & RXT0) && !pc.line);
    printf("and back in our own memory, with an interrupt\n");

    /* More than the ring holds: reception pauses until the driver has given descriptors back. */
    int taken = 0;
    NicEmuStatus status;
    while ((status = nic_emu_receive(nic, pc.wire, pc.on_wire, now)) == NIC_EMU_STATUS_OK)
        taken++;
    CHECK(status == NIC_EMU_STATUS_NO_ROOM && taken == RING - 2 && pc.ready == 0);
    set(RDT, RING / 2);
    CHECK(pc.ready == 1);
    done(nic_emu_receive(nic, pc.wire, pc.on_wire, now));
    printf("reception paused after %d more, and went on\n", taken);

    /* The same NIC in another object, as after a migration. */
    size_t len;
    CHECK(nic_emu_save(nic, NULL, 0, &len, now) == NIC_EMU_STATUS_TOO_SMALL);
    void *state = malloc(len);
    done(nic_emu_save(nic, state, len, &len, now));
    uint32_t head = get(RDH);
    done(nic_emu_destroy(nic));
    pc.line = false;
    done(nic_emu_create_82540em(mac, &callbacks, &nic));
    done(nic_emu_set_link(nic, true, now));
    done(nic_emu_restore(nic, state, len, now));
    done(nic_emu_set_bus_master(nic, true, now));
    CHECK(get(RDH) == head && head == (uint32_t)(taken + 2) % RING);
    CHECK(pc.line); /* what it was interrupting for, it still is */
    done(nic_emu_receive(nic, pc.wire, pc.on_wire, now));
    free(state);
    printf("%zu bytes of state went to another object, which goes on\n", len);

    /* The machine goes to sleep: magic packets are to wake it, and the NIC is in D3. */
    set(WUFC, WUFC_MAG);
    done(nic_emu_write_pme(nic, true, true, now));
    done(nic_emu_set_bus_master(nic, false, now));
    done(nic_emu_receive(nic, pc.wire, pc.on_wire, now));
    CHECK(!pc.wake);
    memset(frame + 14, 0xFF, 6);
    for (int i = 0; i < 16; i++)
        memcpy(frame + 20 + 6 * i, mac, 6);
    done(nic_emu_receive(nic, frame, sizeof frame, now));
    CHECK(pc.wake);
    done(nic_emu_reset(nic, now)); /* back to D0 */
    bool enabled, asked;
    done(nic_emu_pme(nic, &enabled, &asked));
    CHECK(enabled && asked && pc.wake && get(WUPL) == sizeof frame);
    done(nic_emu_write_pme(nic, false, true, now));
    CHECK(!pc.wake);
    printf("a magic packet asked for the machine to be woken\n");

    NicEmuCounter counters[32];
    done(nic_emu_counters(nic, counters, 32, &len));
    for (size_t i = 0; i < len && i < 32; i++)
        if (counters[i].value != 0)
            printf("  %s %" PRIu64 "\n", counters[i].name, counters[i].value);
    printf("%d interrupts in all\n", pc.interrupts);
    return nic_emu_destroy(nic) == NIC_EMU_STATUS_OK ? 0 : 1;
}
