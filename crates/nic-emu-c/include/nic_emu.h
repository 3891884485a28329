// libnic-emu: an Intel NIC for whoever emulates a PC.
//
// A NIC is one object without I/O, clock or threads. The embedder makes it and passes on what its guest does to it
// (nic_emu_read, nic_emu_write), what the bus does (nic_emu_set_bus_master, nic_emu_reset, nic_emu_write_pme), what the network brings
// (nic_emu_receive, nic_emu_set_link), and the time. The NIC answers through callbacks: for guest memory, for frames that
// leave, for its interrupt pin and PME#.
//
// Threads: a NIC may be used on any thread, by one at a time: a call that overlaps with another on the same NIC is not
// made to wait but returns NIC_EMU_STATUS_BUSY and does nothing. Different NICs have nothing to do with each other.
// Callbacks come on the calling thread, within the call; see NicEmuCallbacks for what they must not do.
//
// Time: now is in nanoseconds of a clock of the embedder's choice that never runs backwards; what is earlier than before
// counts as now. The NIC looks at the time in each call. What nobody asks for meanwhile (a link that comes up, an interrupt
// that was moderated) happens in nic_emu_run_timers(), which is due at nic_emu_deadline(): ask for that after other calls.
// Whoever has no timer calls nic_emu_run_timers() now and then.
//
// Guests are not trusted: nothing that one does is an error of a call or harms the embedder. Mistakes of the embedder that
// can be seen (NULL, sizes) are errors. Pointers that are neither NULL nor what is asked for cannot be seen.
//
// Made by cbindgen of crates/nic-emu-c. Licence: MIT OR Apache-2.0.


#ifndef NIC_EMU_H
#define NIC_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Version of the functions and types of this header. It changes when a program that was compiled with an older header
// has to be compiled again; compare it with what nic_emu_abi() returns.
#define NIC_EMU_ABI 2

// nic_emu_deadline() if nothing is due by itself.
#define NIC_EMU_NEVER 18446744073709551615ull

// Length of a name in NicEmuCounter, with its NUL.
#define NIC_EMU_NAME_LEN 32

// Base address registers of a PCI function.
#define NIC_EMU_BARS 6

// Most capabilities in NicEmuPci.
#define NIC_EMU_CAPABILITIES 4

// Most bytes of a capability, without its ID and its pointer to the next one.
#define NIC_EMU_CAPABILITY_LEN 32

// What came of a call. Negative values mean that nothing was done.
enum NicEmuStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It was done.
  NIC_EMU_STATUS_OK = 0,
  // nic_emu_receive(): the guest has no room for the frame. Keep it, and offer it again after receive_ready.
  NIC_EMU_STATUS_NO_ROOM = 1,
  // A pointer that must not be NULL was.
  NIC_EMU_STATUS_NULL = -1,
  // An argument is out of its range, or a callback that is needed is missing.
  NIC_EMU_STATUS_INVALID = -2,
  // Another call on this NIC has not returned yet: one on another thread, or the one that a callback was made by.
  NIC_EMU_STATUS_BUSY = -3,
  // This library has failed, now or earlier: only nic_emu_destroy() is of use for this NIC. A message went to stderr.
  NIC_EMU_STATUS_FAILED = -4,
  // nic_emu_restore(): the bytes are no state of this kind of NIC, or one of a later version of this library.
  NIC_EMU_STATUS_BAD_STATE = -5,
  // nic_emu_save(): the buffer is too small. How many bytes it takes was stored.
  NIC_EMU_STATUS_TOO_SMALL = -6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum NicEmuStatus NicEmuStatus;
#else
typedef int32_t NicEmuStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a base address register asks for.
enum NicEmuBarKind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Nothing: there is no such register.
  NIC_EMU_BAR_KIND_NONE = 0,
  // 32-bit memory, not prefetchable.
  NIC_EMU_BAR_KIND_MEM32 = 1,
  // I/O ports.
  NIC_EMU_BAR_KIND_IO = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum NicEmuBarKind NicEmuBarKind;
#else
typedef int32_t NicEmuBarKind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An emulated NIC.
typedef struct NicEmu NicEmu;

// What the embedder does for a NIC.
//
// Callbacks are made by functions of this library, on the thread that called those, before they return. They must not
// leave by longjmp() or by an exception. What they call on the same NIC returns NIC_EMU_STATUS_BUSY and does nothing:
// a frame that is to come back to the NIC that is sending it has to wait until the function that made the callback has
// returned. Other NICs may be called.
typedef struct NicEmuCallbacks {
  // Passed to each callback.
  void *opaque;
  // Copies len bytes of guest memory at bus address addr to to. False if there is no such memory: the NIC counts
  // that, and does without. Never NULL.
  bool (*dma_read)(void *opaque, uint64_t addr, void *to, size_t len);
  // Copies len bytes to guest memory at bus address addr. False if there is no such memory, or if it is not writable.
  // The guest has to see what successive calls write in the order of these calls, and aligned groups of 8 bytes at
  // once; on the machines that we know memcpy() to shared memory does that. Never NULL.
  bool (*dma_write)(void *opaque, uint64_t addr, const void *from, size_t len);
  // Sends one frame, from its destination address to its last byte before the FCS. All that the guest left to its NIC
  // to do is done: checksums, segmentation, VLAN tags. False if there is no room: the frame and all others stay in the
  // guest's ring until nic_emu_transmit_ready(). The bytes are those of the library, and gone when this returns. Never
  // NULL.
  bool (*transmit)(void *opaque, const uint8_t *frame, size_t len);
  // The interrupt pin (INTA) has this level from now on; it is down when a NIC is made. Only changes are told. Whether
  // COMMAND.INTX_DISABLE lets it through is for configuration space to know. Never NULL.
  void (*interrupt)(void *opaque, bool level);
  // After nic_emu_receive() has returned NIC_EMU_STATUS_NO_ROOM: there is room again. Offer the frame when
  // the function that made this callback has returned. May be NULL, then ask nic_emu_can_receive().
  void (*receive_ready)(void *opaque);
  // The NIC asks for its machine to be woken (PME#: PME_En and PME_Status are both set) from now on, or no longer; it does
  // not when a NIC is made. Only changes are told. May be NULL, then ask nic_emu_pme().
  void (*pme)(void *opaque, bool asserted);
} NicEmuCallbacks;

// A base address register.
typedef struct NicEmuBar {
  // What it asks for.
  NicEmuBarKind kind;
  // Bytes, a power of two.
  uint32_t size;
} NicEmuBar;

// An entry of the capability list.
typedef struct NicEmuCapability {
  // Offset in configuration space.
  uint8_t offset;
  // Capability ID, the byte at offset. The next one is the pointer to the next capability, 0 in the last.
  uint8_t id;
  // Bytes that follow those two.
  uint8_t len;
  // They, as they are after reset.
  uint8_t bytes[NIC_EMU_CAPABILITY_LEN];
  // Which of their bits software may write.
  uint8_t writable[NIC_EMU_CAPABILITY_LEN];
} NicEmuCapability;

// The PCI function that configuration space has to show. That is the embedder's: what the NIC has to know of it comes by
// nic_emu_set_bus_master(), nic_emu_reset() and nic_emu_write_pme().
typedef struct NicEmuPci {
  // Vendor ID.
  uint16_t vendor;
  // Device ID.
  uint16_t device;
  // Subsystem vendor ID.
  uint16_t subsystem_vendor;
  // Subsystem ID.
  uint16_t subsystem_id;
  // Class, subclass and programming interface: 24 bits.
  uint32_t class_code;
  // Revision ID.
  uint8_t revision;
  // 1 for INTA.
  uint8_t interrupt_pin;
  // MIN_GNT, 250 ns.
  uint8_t min_gnt;
  // MAX_LAT, 250 ns.
  uint8_t max_lat;
  // Base address registers, by number.
  struct NicEmuBar bars[NIC_EMU_BARS];
  // How many capabilities there are.
  uint32_t capability_count;
  // Capabilities, in list order.
  struct NicEmuCapability capabilities[NIC_EMU_CAPABILITIES];
} NicEmuPci;

// Something that a NIC counts for whoever watches it; the guest does not see it.
typedef struct NicEmuCounter {
  // Its name, such as tx_frames.
  char name[NIC_EMU_NAME_LEN];
  // Its value; it never goes back.
  uint64_t value;
} NicEmuCounter;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of this library, such as "0.1.0".
const char *nic_emu_version(void);

// NIC_EMU_ABI of this library. A program that was compiled with the header of another one must not go on.
uint32_t nic_emu_abi(void);

// What a status means, in a few English words. Any value may be asked for.
const char *nic_emu_status_text(int32_t status);

// Makes an Intel 82540EM ("e1000", 8086:100e, PRO/1000 MT Desktop) with the station address at mac (6 bytes, of a single
// station), and stores it in *nic. It is as after power-on: no cable, no bus mastering, the interrupt pin down. The table
// of callbacks is copied.
//
// NIC_EMU_STATUS_INVALID if mac is a multicast address or all zeros, or if a callback that is needed is NULL.
NicEmuStatus nic_emu_create_82540em(const uint8_t *mac,
                                    const struct NicEmuCallbacks *callbacks,
                                    struct NicEmu **nic);

// Ends a NIC. No callbacks are made. NULL is NIC_EMU_STATUS_OK. If another call has not returned, this is
// NIC_EMU_STATUS_BUSY and the NIC lives on; that is no protection against calls that begin afterwards.
NicEmuStatus nic_emu_destroy(struct NicEmu *nic);

// Describes the PCI function that the guest is to see.
NicEmuStatus nic_emu_pci(const struct NicEmu *nic, struct NicEmuPci *pci);

// The guest reads size bytes (1, 2, 4 or 8) at offset of base address register bar. The value is stored in *value, as a
// number: byte order is nobody's concern. Accesses that the NIC does not know give 0.
NicEmuStatus nic_emu_read(struct NicEmu *nic,
                          uint8_t bar,
                          uint64_t offset,
                          uint32_t size,
                          uint64_t *value,
                          uint64_t now);

// The guest writes the lower size bytes (1, 2, 4 or 8) of value at offset of base address register bar. What that asks
// for is done before this returns, transmission of the frames in the ring included; if there are very many, the rest is
// due at once (nic_emu_deadline()). Accesses that the NIC does not know do nothing.
NicEmuStatus nic_emu_write(struct NicEmu *nic,
                           uint8_t bar,
                           uint64_t offset,
                           uint32_t size,
                           uint64_t value,
                           uint64_t now);

// COMMAND.MASTER of configuration space: without it there is no DMA. To be told after each change, and after
// nic_emu_restore().
NicEmuStatus nic_emu_set_bus_master(struct NicEmu *nic,
                                    bool on,
                                    uint64_t now);

// PME_En and PME_Status, for PMCSR of configuration space to show. They outlast nic_emu_reset(), as with auxiliary power.
NicEmuStatus nic_emu_pme(const struct NicEmu *nic,
                         bool *enabled,
                         bool *status);

// The guest writes PMCSR: PME_En is this from now on, and a 1 for PME_Status clears it. From then on frames and changes of
// the link that the guest has chosen (WUFC) set PME_Status, in D3 as well: what arrives goes to nic_emu_receive() all the
// time. A change of power state that the same write makes comes after this: outside D0 there is no bus mastering
// (nic_emu_set_bus_master()), and on the way back there is nic_emu_reset().
NicEmuStatus nic_emu_write_pme(struct NicEmu *nic,
                               bool enabled,
                               bool clear_status,
                               uint64_t now);

// Resets the NIC as the bus does (RST#), or the way from D3hot to D0. The cable stays, and so do the contents of the
// EEPROM. COMMAND.MASTER is configuration space's.
NicEmuStatus nic_emu_reset(struct NicEmu *nic,
                           uint64_t now);

// Resets the NIC to what it was when it was made, but for the cable: the EEPROM, too, forgets what a guest wrote to it.
NicEmuStatus nic_emu_power_on(struct NicEmu *nic,
                              uint64_t now);

// Plugs or pulls the cable. The guest's link goes down at once; it comes up when auto-negotiation is over, for which
// time has to pass.
NicEmuStatus nic_emu_set_link(struct NicEmu *nic,
                              bool up,
                              uint64_t now);

// Whether the guest has link.
NicEmuStatus nic_emu_link(const struct NicEmu *nic, bool *up);

// A frame arrives from the network: len bytes from its destination address to the last before its FCS. It need not be
// padded.
//
// NIC_EMU_STATUS_OK if it was taken: by the guest, or by its filters, or by a receiver that is off.
// NIC_EMU_STATUS_NO_ROOM if the guest's ring is full: reception pauses, keep the frame. When there is room,
// receive_ready is called; then offer it again.
NicEmuStatus nic_emu_receive(struct NicEmu *nic,
                             const void *frame,
                             size_t len,
                             uint64_t now);

// Whether nic_emu_receive() would take a frame.
NicEmuStatus nic_emu_can_receive(const struct NicEmu *nic, bool *can);

// After the transmit callback has returned false: there is room again. Sends what has waited.
NicEmuStatus nic_emu_transmit_ready(struct NicEmu *nic, uint64_t now);

// When nic_emu_run_timers() has something to do; NIC_EMU_NEVER if time alone changes nothing. Any other call may move it.
NicEmuStatus nic_emu_deadline(const struct NicEmu *nic,
                              uint64_t *deadline);

// Does what is due by now. Calling it too early or too often does no harm.
NicEmuStatus nic_emu_run_timers(struct NicEmu *nic, uint64_t now);

// Stores what the NIC has counted in counters, which has room for so many, and in *count how many there are. With room
// for fewer the rest is left out. counters may be NULL if room is 0.
NicEmuStatus nic_emu_counters(const struct NicEmu *nic,
                              struct NicEmuCounter *counters,
                              size_t room,
                              size_t *count);

// Saves the NIC as it is now in buffer, which has room for so many bytes, and stores in *len how many it takes. If that
// is more than room, it is NIC_EMU_STATUS_TOO_SMALL. buffer may be NULL if room is 0.
//
// The guest should be stopped; no callbacks are made. The cable, COMMAND.MASTER, the counters and frames that were not taken are the embedder's.
NicEmuStatus nic_emu_save(struct NicEmu *nic,
                          void *buffer,
                          size_t room,
                          size_t *len,
                          uint64_t now);

// Continues what nic_emu_save() has saved, of this NIC or of another. The bytes may come from anybody: what no NIC could
// be is refused (NIC_EMU_STATUS_BAD_STATE), and changes nothing.
//
// Plug the cable in before this (nic_emu_set_link()), or the guest sees its link go down. Call nic_emu_set_bus_master()
// after this, when guest memory is in place and before the guest runs: what the NIC was about to do is done then. With bus
// mastering on all the time, nic_emu_run_timers() is due at once.
NicEmuStatus nic_emu_restore(struct NicEmu *nic,
                             const void *state,
                             size_t len,
                             uint64_t now);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NIC_EMU_H */
