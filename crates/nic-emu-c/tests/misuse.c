/* Everything that an embedder can get wrong and that the library can see; and callbacks that refuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nic_emu.h"

static void check(bool good, const char *what, int line) {
    if (!good) {
        fprintf(stderr, "line %d: not so: %s\n", line, what);
        exit(1);
    }
}
#define CHECK(what) check((what), #what, __LINE__)
#define IS(status, call) check((call) == NIC_EMU_STATUS_##status, #call " is " #status, __LINE__)

static NicEmu *nic;
static uint8_t ram[0x4000];
static bool full;     /* the network takes nothing */
static bool no_ram;   /* nor does memory */
static int room;      /* frames that a full network still takes */
static int sent;
static int calls_back;

/* A callback that calls its own NIC is refused, and nothing else happens. */
static void call_back(void) {
    uint64_t value = 7;
    size_t len = 7;
    IS(BUSY, nic_emu_read(nic, 0, 8, 4, &value, 0));
    IS(BUSY, nic_emu_write(nic, 0, 8, 4, 0, 0));
    IS(BUSY, nic_emu_receive(nic, ram, 64, 0));
    IS(BUSY, nic_emu_save(nic, NULL, 0, &len, 0));
    IS(BUSY, nic_emu_run_timers(nic, 0));
    IS(BUSY, nic_emu_destroy(nic));
    CHECK(value == 7 && len == 7);
    calls_back++;
}

static bool inside(uint64_t addr, size_t len) {
    return !no_ram && addr <= sizeof ram && len <= sizeof ram - (size_t)addr;
}

static bool dma_read(void *opaque, uint64_t addr, void *to, size_t len) {
    CHECK(opaque == &ram);
    call_back();
    if (inside(addr, len))
        memcpy(to, ram + addr, len);
    return inside(addr, len);
}

static bool dma_write(void *opaque, uint64_t addr, const void *from, size_t len) {
    CHECK(opaque == &ram);
    call_back();
    if (inside(addr, len))
        memcpy(ram + addr, from, len);
    return inside(addr, len);
}

static bool transmit(void *opaque, const uint8_t *frame, size_t len) {
    CHECK(opaque == &ram && frame != NULL && len >= 14);
    call_back();
    if (full && room-- <= 0)
        return false;
    /* Each frame has its number where the driver put it, so none is lost and none is sent twice. */
    CHECK(frame[14] == sent);
    sent++;
    return true;
}

static void interrupt(void *opaque, bool level) {
    CHECK(opaque == &ram);
    (void)level;
    call_back();
}

static uint64_t counter(const char *name) {
    NicEmuCounter all[64];
    size_t count;
    IS(OK, nic_emu_counters(nic, all, 64, &count));
    CHECK(count > 0 && count <= 64);
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].value;
    CHECK(!"there is such a counter");
    return 0;
}

static void set(uint64_t reg, uint64_t value) {
    IS(OK, nic_emu_write(nic, 0, reg, 4, value, 0));
}

/* A legacy descriptor for `len` bytes at `addr`, with all of EOP, IFCS and RS. */
static void describe(int index, uint64_t addr, uint64_t len) {
    uint64_t words[2] = {addr, (uint64_t)0x0B << 24 | len};
    memcpy(ram + 16 * index, words, sizeof words);
}

static void creating(void) {
    const uint8_t mac[6] = {2, 0, 0, 0, 0, 1}, group[6] = {3, 0, 0, 0, 0, 1}, zeros[6] = {0};
    const NicEmuCallbacks good = {&ram, dma_read, dma_write, transmit, interrupt, NULL, NULL};
    NicEmuCallbacks bad[4] = {good, good, good, good};
    bad[0].dma_read = NULL;
    bad[1].dma_write = NULL;
    bad[2].transmit = NULL;
    bad[3].interrupt = NULL;
    IS(NULL, nic_emu_create_82540em(NULL, &good, &nic));
    IS(NULL, nic_emu_create_82540em(mac, NULL, &nic));
    IS(NULL, nic_emu_create_82540em(mac, &good, NULL));
    IS(INVALID, nic_emu_create_82540em(group, &good, &nic));
    IS(INVALID, nic_emu_create_82540em(zeros, &good, &nic));
    for (int i = 0; i < 4; i++)
        IS(INVALID, nic_emu_create_82540em(mac, &bad[i], &nic));
    CHECK(nic == NULL);
    IS(OK, nic_emu_destroy(NULL));
    IS(OK, nic_emu_create_82540em(mac, &good, &nic));
    CHECK(nic != NULL);
}

static void null_pointers(void) {
    uint64_t value;
    size_t len;
    bool flag;
    NicEmuPci pci;
    IS(NULL, nic_emu_pci(NULL, &pci));
    IS(NULL, nic_emu_pci(nic, NULL));
    IS(NULL, nic_emu_read(NULL, 0, 0, 4, &value, 0));
    IS(NULL, nic_emu_read(nic, 0, 0, 4, NULL, 0));
    IS(NULL, nic_emu_write(NULL, 0, 0, 4, 0, 0));
    IS(NULL, nic_emu_set_bus_master(NULL, true, 0));
    IS(NULL, nic_emu_reset(NULL, 0));
    IS(NULL, nic_emu_power_on(NULL, 0));
    IS(NULL, nic_emu_set_link(NULL, true, 0));
    IS(NULL, nic_emu_link(NULL, &flag));
    IS(NULL, nic_emu_link(nic, NULL));
    IS(NULL, nic_emu_pme(NULL, &flag, &flag));
    IS(NULL, nic_emu_pme(nic, NULL, &flag));
    IS(NULL, nic_emu_pme(nic, &flag, NULL));
    IS(NULL, nic_emu_write_pme(NULL, true, true, 0));
    IS(NULL, nic_emu_receive(NULL, ram, 64, 0));
    IS(NULL, nic_emu_receive(nic, NULL, 64, 0));
    IS(NULL, nic_emu_can_receive(NULL, &flag));
    IS(NULL, nic_emu_can_receive(nic, NULL));
    IS(NULL, nic_emu_transmit_ready(NULL, 0));
    IS(NULL, nic_emu_deadline(NULL, &value));
    IS(NULL, nic_emu_deadline(nic, NULL));
    IS(NULL, nic_emu_run_timers(NULL, 0));
    IS(NULL, nic_emu_counters(NULL, NULL, 0, &len));
    IS(NULL, nic_emu_counters(nic, NULL, 1, &len));
    IS(NULL, nic_emu_counters(nic, NULL, 0, NULL));
    IS(NULL, nic_emu_save(NULL, NULL, 0, &len, 0));
    IS(NULL, nic_emu_save(nic, NULL, 0, NULL, 0));
    IS(NULL, nic_emu_save(nic, NULL, 1, &len, 0));
    IS(NULL, nic_emu_restore(NULL, ram, 64, 0));
    IS(NULL, nic_emu_restore(nic, NULL, 64, 0));
}

static void accesses(void) {
    uint64_t value = 7;
    const uint32_t bad[] = {0, 3, 5, 9, 0xFFFFFFFF};
    for (int i = 0; i < 5; i++) {
        IS(INVALID, nic_emu_read(nic, 0, 0, bad[i], &value, 0));
        IS(INVALID, nic_emu_write(nic, 0, 0, bad[i], 0, 0));
    }
    CHECK(value == 7);
    /* RAL0 and RAH0, at once, in halves, and by the byte. */
    IS(OK, nic_emu_read(nic, 0, 0x5400, 8, &value, 0));
    CHECK(value == 0x8000010000000002);
    IS(OK, nic_emu_read(nic, 0, 0x5404, 4, &value, 0));
    CHECK(value == 0x80000100);
    IS(OK, nic_emu_read(nic, 0, 0x5405, 1, &value, 0));
    CHECK(value == 1);
    /* No such base address register, no such register, no such address. */
    IS(OK, nic_emu_read(nic, 255, 0, 4, &value, 0));
    CHECK(value == 0);
    IS(OK, nic_emu_read(nic, 0, 0x20000, 4, &value, 0));
    CHECK(value == 0);
    IS(OK, nic_emu_read(nic, 0, UINT64_MAX, 8, &value, 0));
    CHECK(value == 0);
    IS(OK, nic_emu_write(nic, 0, UINT64_MAX - 3, 8, UINT64_MAX, 0));
    IS(OK, nic_emu_write(nic, 255, 0, 8, UINT64_MAX, 0));
}

static void description(void) {
    NicEmuPci pci;
    IS(OK, nic_emu_pci(nic, &pci));
    CHECK(pci.vendor == 0x8086 && pci.device == 0x100E && pci.class_code == 0x020000 && pci.interrupt_pin == 1);
    CHECK(pci.bars[0].kind == NIC_EMU_BAR_KIND_MEM32 && pci.bars[0].size == 0x20000);
    CHECK(pci.bars[2].kind == NIC_EMU_BAR_KIND_IO && pci.bars[5].kind == NIC_EMU_BAR_KIND_NONE);
    CHECK(pci.capability_count >= 1 && pci.capabilities[0].id == 1 && pci.capabilities[0].len == 6);
    CHECK(pci.capabilities[0].writable[2] == 3); /* PMCSR.PowerState */
}

static void states(void) {
    size_t len, again;
    uint8_t *state;
    IS(OK, nic_emu_set_bus_master(nic, true, 0));
    set(0x2800, 0x1230); /* RDBAL */
    IS(TOO_SMALL, nic_emu_save(nic, NULL, 0, &len, 0));
    state = malloc(len + 1);
    IS(TOO_SMALL, nic_emu_save(nic, state, len - 1, &again, 0));
    CHECK(again == len);
    IS(OK, nic_emu_save(nic, state, len, &again, 0));
    IS(BAD_STATE, nic_emu_restore(nic, NULL, 0, 0));
    IS(BAD_STATE, nic_emu_restore(nic, state, len - 1, 0));
    IS(BAD_STATE, nic_emu_restore(nic, state, len + 1, 0));
    state[0] ^= 0x40; /* another version */
    IS(BAD_STATE, nic_emu_restore(nic, state, len, 0));
    state[0] ^= 0x40;

    uint64_t value;
    set(0x2800, 0x4560);
    IS(OK, nic_emu_restore(nic, state, len, 0));
    IS(OK, nic_emu_read(nic, 0, 0x2800, 4, &value, 0));
    CHECK(value == 0x1230);
    IS(OK, nic_emu_reset(nic, 0));
    IS(OK, nic_emu_restore(nic, state, len, 0));
    IS(OK, nic_emu_read(nic, 0, 0x2800, 4, &value, 0));
    CHECK(value == 0x1230);
    free(state);
    IS(OK, nic_emu_power_on(nic, 0));
    IS(OK, nic_emu_read(nic, 0, 0x2800, 4, &value, 0));
    CHECK(value == 0);
}

static void frames(void) {
    static uint8_t huge[1 << 20];
    /* The receiver is off: all frames are taken, none is kept. */
    IS(OK, nic_emu_receive(nic, NULL, 0, 0));
    IS(OK, nic_emu_receive(nic, huge, sizeof huge, 0));
    CHECK(counter("rx_disabled") == 2);
    set(0xD0, 0x1FFFF);       /* IMS */
    set(0x2800, 0x800);       /* RDBAL */
    set(0x2808, 128);         /* RDLEN */
    set(0x2818, 7);           /* RDT */
    set(0x0100, 1 << 1 | 1 << 3); /* RCTL: EN, UPE */
    IS(OK, nic_emu_receive(nic, NULL, 0, 0));
    IS(OK, nic_emu_receive(nic, huge, 13, 0));
    IS(OK, nic_emu_receive(nic, huge, sizeof huge, 0));
    CHECK(counter("rx_frames") == 0);

    /* Four frames for a network with room for two, and then for all. */
    for (int i = 0; i < 4; i++) {
        describe(i, 0x1000 + 64 * i, 60);
        ram[0x1000 + 64 * i + 14] = (uint8_t)i;
    }
    full = true;
    room = 2;
    set(0x3808, 128);         /* TDLEN */
    set(0x0400, 1 << 1);      /* TCTL */
    set(0x3818, 4);           /* TDT */
    CHECK(sent == 2 && counter("tx_frames") == 2);
    set(0x3818, 4);
    CHECK(sent == 2);
    room = 0;
    IS(OK, nic_emu_transmit_ready(nic, 0));
    CHECK(sent == 2);
    full = false;
    IS(OK, nic_emu_transmit_ready(nic, 0));
    CHECK(sent == 4 && counter("tx_frames") == 4);

    /* Memory that is not there any more. */
    no_ram = true;
    set(0x3818, 6);
    IS(OK, nic_emu_receive(nic, huge, 60, 0));
    CHECK(sent == 4 && counter("dma_unreachable") >= 2);
    no_ram = false;
    CHECK(calls_back > 10);
}

static void timing(void) {
    uint64_t deadline, later;
    bool link;
    IS(OK, nic_emu_power_on(nic, 1000));
    IS(OK, nic_emu_deadline(nic, &deadline));
    CHECK(deadline == NIC_EMU_NEVER);
    set(0, 1 << 6); /* CTRL.SLU */
    IS(OK, nic_emu_set_link(nic, true, 2000));
    IS(OK, nic_emu_deadline(nic, &deadline));
    CHECK(deadline > 2000 && deadline != NIC_EMU_NEVER);
    /* Too early, and in the past. */
    IS(OK, nic_emu_run_timers(nic, deadline - 1));
    IS(OK, nic_emu_run_timers(nic, 0));
    IS(OK, nic_emu_deadline(nic, &later));
    IS(OK, nic_emu_link(nic, &link));
    CHECK(later == deadline && !link);
    /* Any call brings the time along. */
    IS(OK, nic_emu_read(nic, 0, 0, 4, &later, deadline));
    IS(OK, nic_emu_link(nic, &link));
    CHECK(link);
}

static void texts(void) {
    CHECK(strlen(nic_emu_version()) >= 5);
    CHECK(nic_emu_abi() == NIC_EMU_ABI);
    for (int status = -6; status <= 1; status++)
        CHECK(strcmp(nic_emu_status_text(status), "unknown") != 0);
    CHECK(strcmp(nic_emu_status_text(2), "unknown") == 0);
    CHECK(strcmp(nic_emu_status_text(INT32_MIN), "unknown") == 0);
}

int main(void) {
    creating();
    null_pointers();
    accesses();
    description();
    states();
    frames();
    timing();
    texts();
    IS(OK, nic_emu_destroy(nic));
    printf("all as the header says\n");
    return 0;
}
