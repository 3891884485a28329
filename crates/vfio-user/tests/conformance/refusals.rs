//! Every arrowed clause whose connection stays usable: the errno, nothing but the header, and everything works as
//! before. Each is a test of its own, and all together are one more, on a single connection.

use vfio_user::wire::command;

use crate::common::{access, dma_map, dma_unmap, words};
use crate::{BOTH, Case, INVAL, NOENT, NOSPC, PAGE, Request, request};

macro_rules! refusals {
    ($($name:ident => $errno:ident: $request:expr;)*) => {
        $(#[test]
        fn $name() {
            Case::new().refused(stringify!($name), &$request, $errno);
        })*

        #[test]
        fn all_refusals_on_one_connection() {
            let mut case = Case::new();
            $(case.refused(stringify!($name), &$request, $errno);)*
            let mem = case.serving.mem.load();
            mem.write(PAGE, &[1; 0x1000]).expect("what was mapped stays mapped");
        }
    };
}

const SET_IRQS: u16 = command::DEVICE_SET_IRQS;
const MAP: u16 = command::DMA_MAP;
const UNMAP: u16 = command::DMA_UNMAP;
const FEATURE: u16 = command::DEVICE_FEATURE;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;

fn irqs(flags: u32, index: u32, start: u32, count: u32) -> Request {
    request(SET_IRQS, words(&[20, flags, index, start, count]))
}

fn with_argsz(argsz: u32, mut payload: Vec<u8>) -> Vec<u8> {
    payload[..4].copy_from_slice(&argsz.to_le_bytes());
    payload
}

fn write(region: u32, offset: u64, count: u32, data: &[u8]) -> Request {
    let payload = [&access(region, offset, count)[..], data].concat();
    request(command::REGION_WRITE, payload)
}

fn feature(flags: u32, data: &[u32]) -> Request {
    let argsz = 8 + 4 * data.len() as u32;
    request(FEATURE, words(&[&[argsz, flags], data].concat()))
}

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;

fn dirty(size: u64, page: u64, bitmap: u64) -> Request {
    let mut payload = dma_unmap(40 + 8, 1, PAGE, size);
    payload.extend(page.to_le_bytes());
    payload.extend(bitmap.to_le_bytes());
    request(UNMAP, payload)
}

refusals! {
    // Request framing.
    framing_a_reply_to_nothing => INVAL: Request { flags: 1, ..request(command::DEVICE_RESET, []) };
    framing_a_type_that_is_none => INVAL: Request { flags: 2, ..request(command::DEVICE_RESET, []) };
    framing_unknown_command_19 => INVAL: request(19, [0; 32]);
    framing_a_second_version => INVAL: request(command::VERSION, [0; 4]);
    framing_size_16_dma_map => INVAL: request(MAP, []);
    framing_size_16_dma_unmap => INVAL: request(UNMAP, []);
    framing_size_16_get_info => INVAL: request(command::DEVICE_GET_INFO, []);
    framing_size_16_get_region_info => INVAL: request(command::DEVICE_GET_REGION_INFO, []);
    framing_size_16_get_region_io_fds => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, []);
    framing_size_16_get_irq_info => INVAL: request(command::DEVICE_GET_IRQ_INFO, []);
    framing_size_16_set_irqs => INVAL: request(SET_IRQS, []);
    framing_size_16_region_read => INVAL: request(command::REGION_READ, []);
    framing_size_16_region_write => INVAL: request(command::REGION_WRITE, []);
    framing_size_16_write_multi => INVAL: request(command::REGION_WRITE_MULTI, []);
    framing_size_16_feature => INVAL: request(FEATURE, []);
    framing_size_16_mig_data_read => INVAL: request(command::MIG_DATA_READ, []);
    framing_size_16_mig_data_write => INVAL: request(command::MIG_DATA_WRITE, []);

    // DEVICE_GET_INFO.
    get_info_short => INVAL: request(command::DEVICE_GET_INFO, words(&[16, 0, 0]));
    get_info_argsz_below_16 => INVAL: request(command::DEVICE_GET_INFO, words(&[15, 0, 0, 0]));

    // DEVICE_GET_REGION_INFO.
    region_info_short => INVAL: request(command::DEVICE_GET_REGION_INFO, &words(&[32, 0, 0, 0, 0, 0, 0, 0])[..31]);
    region_info_argsz_below_32 => INVAL: request(command::DEVICE_GET_REGION_INFO, words(&[31, 0, 0, 0, 0, 0, 0, 0]));
    region_info_index_9 => INVAL: request(command::DEVICE_GET_REGION_INFO, words(&[32, 0, 9, 0, 0, 0, 0, 0]));

    // DEVICE_GET_REGION_IO_FDS.
    io_fds_short => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[16, 0, 0]));
    io_fds_flags => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[16, 1, 0, 0]));
    io_fds_count => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[16, 0, 0, 1]));
    io_fds_argsz_below_16 => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[15, 0, 0, 0]));
    io_fds_argsz_above_maximum => INVAL:
        request(command::DEVICE_GET_REGION_IO_FDS, words(&[(1 << 20) + 1, 0, 0, 0]));
    io_fds_index_9 => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[16, 0, 9, 0]));
    io_fds_unset_region => INVAL: request(command::DEVICE_GET_REGION_IO_FDS, words(&[16, 0, 1, 0]));

    // DEVICE_GET_IRQ_INFO.
    irq_info_short => INVAL: request(command::DEVICE_GET_IRQ_INFO, words(&[16, 0, 0]));
    irq_info_argsz_below_16 => INVAL: request(command::DEVICE_GET_IRQ_INFO, words(&[15, 0, 0, 0]));
    irq_info_index_5 => INVAL: request(command::DEVICE_GET_IRQ_INFO, words(&[16, 0, 5, 0]));

    // DEVICE_SET_IRQS; the device has 20 MSI-X vectors.
    set_irqs_short => INVAL: request(SET_IRQS, words(&[20, TRIGGER | NONE, MSIX, 0]));
    set_irqs_argsz_below_20 => INVAL: request(SET_IRQS, words(&[19, TRIGGER | NONE, MSIX, 0, 1]));
    set_irqs_index_5 => INVAL: irqs(TRIGGER | NONE, 5, 0, 1);
    set_irqs_two_actions => INVAL: irqs(TRIGGER | MASK | NONE, MSIX, 0, 1);
    set_irqs_no_action => INVAL: irqs(NONE, MSIX, 0, 1);
    set_irqs_two_data_types => INVAL: irqs(TRIGGER | NONE | BOOL, MSIX, 0, 1);
    set_irqs_no_data_type => INVAL: irqs(TRIGGER, MSIX, 0, 1);
    set_irqs_start_is_count => INVAL: irqs(TRIGGER | NONE, MSIX, 20, 1);
    set_irqs_overflow => INVAL: irqs(TRIGGER | NONE, MSIX, 1, u32::MAX);
    set_irqs_beyond_the_end => INVAL: irqs(TRIGGER | NONE, MSIX, 19, 2);
    set_irqs_mask_err => INVAL: irqs(MASK | NONE, ERR, 0, 1);
    set_irqs_unmask_err => INVAL: irqs(UNMASK | NONE, ERR, 0, 1);
    set_irqs_mask_req => INVAL: irqs(MASK | NONE, REQ, 0, 1);
    set_irqs_unmask_req => INVAL: irqs(UNMASK | NONE, REQ, 0, 1);
    set_irqs_two_err => INVAL: irqs(TRIGGER | NONE, ERR, 0, 2);
    set_irqs_two_req => INVAL: irqs(TRIGGER | NONE, REQ, 0, 2);
    set_irqs_count_0_start_1 => INVAL: irqs(TRIGGER | NONE, MSIX, 1, 0);
    set_irqs_count_0_mask => INVAL: irqs(MASK | NONE, MSIX, 0, 0);
    set_irqs_count_0_bool => INVAL: irqs(TRIGGER | BOOL, MSIX, 0, 0);
    set_irqs_count_0_eventfd => INVAL: irqs(TRIGGER | EVENTFD, MSIX, 0, 0);
    set_irqs_fds_with_none => INVAL: irqs(TRIGGER | NONE, MSIX, 0, 1).with_fds(1);
    set_irqs_fds_with_bool => INVAL:
        request(SET_IRQS, [words(&[21, TRIGGER | BOOL, MSIX, 0, 1]), vec![1]].concat()).with_fds(1);
    set_irqs_fds_fewer_than_count => INVAL: irqs(TRIGGER | EVENTFD, MSIX, 0, 3).with_fds(2);
    set_irqs_fds_more_than_count => INVAL: irqs(TRIGGER | EVENTFD, MSIX, 0, 1).with_fds(2);
    set_irqs_bools_fewer_than_count => INVAL:
        request(SET_IRQS, [words(&[21, TRIGGER | BOOL, MSIX, 0, 2]), vec![1]].concat());
    set_irqs_bools_more_than_count => INVAL:
        request(SET_IRQS, [words(&[22, TRIGGER | BOOL, MSIX, 0, 1]), vec![1, 1]].concat());
    set_irqs_disable_an_index_without_interrupts => INVAL: irqs(TRIGGER | NONE, MSI, 0, 0);

    // REGION_READ, REGION_WRITE, REGION_WRITE_MULTI.
    region_read_short => INVAL: request(command::REGION_READ, &access(0, 0, 4)[..15]);
    region_read_above_maximum => INVAL: request(command::REGION_READ, access(0, 0, (1 << 20) + 1));
    region_write_short => INVAL: request(command::REGION_WRITE, &access(0, 0, 4)[..15]);
    region_write_above_maximum => INVAL: write(0, 0, (1 << 20) + 1, &[0; 4]);
    region_write_offset_overflow => INVAL: write(0, u64::MAX, 4, &[0; 4]);
    region_write_beyond_the_region => INVAL: write(0, 0xffd, 4, &[0; 4]);
    region_write_to_an_unset_region => INVAL: write(1, 0, 4, &[0; 4]);
    region_write_fewer_bytes_than_count => INVAL: write(0, 0, 4, &[0; 3]);
    region_write_more_bytes_than_count => INVAL: write(0, 0, 4, &[0; 5]);
    write_multi_fewer_than_count => INVAL: request(command::REGION_WRITE_MULTI, [2, 0, 0, 0, 0, 0, 0, 0, 9, 9]);
    write_multi_count_overflow => INVAL: request(command::REGION_WRITE_MULTI, [0xff; 32]);

    // DMA_MAP.
    dma_map_short => INVAL: request(MAP, &dma_map(BOTH, 0, 0, 0x1000)[..31]);
    dma_map_argsz_below_32 => INVAL: request(MAP, with_argsz(31, dma_map(BOTH, 0, 0, 0x1000)));
    dma_map_unknown_flag => INVAL: request(MAP, dma_map(BOTH | 16, 0, 0, 0x1000));
    dma_map_above_8_tib => NOSPC: request(MAP, dma_map(BOTH, 0, 0, (8 << 40) + 1));
    dma_map_overlapping => INVAL: request(MAP, dma_map(BOTH, 0, PAGE - 0x800, 0x1000));
    dma_map_other_flags_over_the_same_range => INVAL: request(MAP, dma_map(1, 0, PAGE, 0x1000));
    dma_map_wrapping => INVAL: request(MAP, dma_map(BOTH, 0, u64::MAX - 1, 0x1000));
    dma_map_mmap_without_fd => INVAL: request(MAP, dma_map(BOTH | 4, 0, 0, 0x1000));
    dma_map_file_io_without_fd => INVAL: request(MAP, dma_map(BOTH | 8, 0, 0, 0x1000));
    dma_map_two_fds => INVAL: request(MAP, dma_map(BOTH, 0, 0, 0x1000)).with_fds(2);

    // DMA_UNMAP.
    dma_unmap_short => INVAL: request(UNMAP, &dma_unmap(24, 0, PAGE, 0x1000)[..23]);
    dma_unmap_argsz_below_24 => INVAL: request(UNMAP, dma_unmap(23, 0, PAGE, 0x1000));
    dma_unmap_argsz_above_maximum => INVAL: request(UNMAP, dma_unmap((1 << 20) + 1, 0, PAGE, 0x1000));
    dma_unmap_flag_4 => INVAL: request(UNMAP, dma_unmap(24, 4, PAGE, 0x1000));
    dma_unmap_all_with_an_address => INVAL: request(UNMAP, dma_unmap(24, 2, PAGE, 0));
    dma_unmap_all_with_a_size => INVAL: request(UNMAP, dma_unmap(24, 2, 0, 0x1000));
    dma_unmap_all_and_dirty => INVAL: request(UNMAP, dma_unmap(24, 3, 0, 0));
    dma_unmap_dirty_without_tracking => INVAL: dirty(0x1000, 0x1000, 8);
    dma_unmap_dirty_size_overflow => INVAL: dirty(0x1000, 0x1000, u64::MAX);
    dma_unmap_size_0 => INVAL: request(UNMAP, dma_unmap(24, 0, PAGE, 0));
    dma_unmap_wrapping => INVAL: request(UNMAP, dma_unmap(24, 0, PAGE, u64::MAX));
    dma_unmap_part_of_an_entry => NOENT: request(UNMAP, dma_unmap(24, 0, PAGE, 0x800));
    dma_unmap_across_the_end_of_an_entry => NOENT: request(UNMAP, dma_unmap(24, 0, PAGE + 0x800, 0x1000));

    // DEVICE_FEATURE, MIG_DATA_*, while the device runs.
    feature_short => INVAL: request(FEATURE, words(&[8]));
    feature_argsz_below_8 => INVAL: request(FEATURE, words(&[7, GET | 1]));
    feature_argsz_without_room => INVAL: request(FEATURE, words(&[8, GET | 2]));
    feature_set_of_what_can_only_be_got => INVAL: feature(SET | 1, &[0, 0]);
    feature_get_of_what_can_only_be_set => INVAL: feature(GET | 6, &[]);
    feature_state_unknown => INVAL: feature(SET | 2, &[0xabcd, 0]);
    feature_state_short => INVAL: feature(SET | 2, &[]);
    logging_page_size_0 => INVAL: feature(SET | 6, &[0, 0, 0, 0]);
    logging_ranges_missing => INVAL: feature(SET | 6, &[4096, 0, 2, 0, 0, 0, 4096, 0]);
    logging_report_without_logging => INVAL: feature(GET | 8, &[0, 1, 0, 0, 0x1000, 0, 4096, 0]);
    mig_data_read_while_running => INVAL: request(command::MIG_DATA_READ, words(&[8 + 4, 4]));
    mig_data_write_while_running => INVAL:
        request(command::MIG_DATA_WRITE, words(&[8 + 4, 4, 0]));
}
