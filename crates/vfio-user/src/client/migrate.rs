//! Features: saving and restoring a device, and which memory it wrote.

use zerocopy::{FromBytes, IntoBytes};

use super::dma::{bitmap_words, words_of};
use super::exchange::Expected;
use super::{Client, ClientError, Result, read};
use crate::wire::{
    DeviceState, Feature, LoggingRange, LoggingReport, LoggingStart, MAX_DATA, MigData, command,
    feature, feature_flags,
};

/// Bytes of one piece of a saved state, unless the server takes less.
const PIECE: usize = 256 << 10;

impl Client {
    /// Reads a feature, whose value may have `len` bytes; `data` go with the request where it needs some.
    /// Specification, "VFIO_USER_DEVICE_FEATURE".
    ///
    /// # Errors
    ///
    /// If the device does not have it.
    pub fn feature_get(&mut self, number: u32, data: &[u8], len: usize) -> Result<Vec<u8>> {
        let mut reply = self.feature(number | feature_flags::GET, data, len)?;
        Ok(reply.split_off(size_of::<Feature>().min(reply.len())))
    }

    /// Sets a feature. Specification, "VFIO_USER_DEVICE_FEATURE".
    ///
    /// # Errors
    ///
    /// If the device does not have it, or not with these data.
    pub fn feature_set(&mut self, number: u32, data: &[u8]) -> Result<()> {
        self.feature(number | feature_flags::SET, data, data.len())?;
        Ok(())
    }

    /// Asks whether a feature can be used as `flags` say ([`feature_flags::GET`], [`feature_flags::SET`]).
    /// Specification, "VFIO_USER_DEVICE_FEATURE".
    ///
    /// # Errors
    ///
    /// If it cannot.
    pub fn feature_probe(&mut self, number: u32, flags: u32) -> Result<()> {
        self.feature(number | flags | feature_flags::PROBE, &[], 0)?;
        Ok(())
    }

    fn feature(&mut self, flags: u32, data: &[u8], len: usize) -> Result<Vec<u8>> {
        let most = size_of::<Feature>() + len.max(data.len());
        let request = Feature {
            argsz: u32::try_from(most).map_err(|_| ClientError::TooLong)?,
            flags,
        };
        let expected = Expected {
            payload: most,
            fds: 0,
        };
        let parts = [request.as_bytes(), data];
        let ticket = self.submit_parts(command::DEVICE_FEATURE, &parts, &[], expected)?;
        let payload = self.collect(ticket)?.payload;
        let reply: Feature = read(&payload)?;
        match reply.flags & feature_flags::NUMBER == flags & feature_flags::NUMBER {
            true => Ok(payload),
            false => Err(ClientError::Protocol("an answer about another feature")),
        }
    }

    /// How the device can be migrated: bits of [`migration_flags`](crate::wire::migration_flags).
    /// Specification, "VFIO_DEVICE_FEATURE_MIGRATION".
    ///
    /// # Errors
    ///
    /// If it cannot be migrated.
    pub fn migration_flags(&mut self) -> Result<u64> {
        read(&self.feature_get(feature::MIGRATION, &[], size_of::<u64>())?)
    }

    /// The state the device is in, one of [`device_state`](crate::wire::device_state).
    /// Specification, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE".
    ///
    /// # Errors
    ///
    /// If it cannot be migrated.
    pub fn device_state(&mut self) -> Result<u32> {
        let data = self.feature_get(feature::MIG_DEVICE_STATE, &[], size_of::<DeviceState>())?;
        Ok(read::<DeviceState>(&data)?.state)
    }

    /// Takes the device to another state, one of [`device_state`](crate::wire::device_state).
    /// Specification, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE".
    ///
    /// # Errors
    ///
    /// If there is no way from here to there, or the device could not go it.
    pub fn set_device_state(&mut self, state: u32) -> Result<()> {
        let data = DeviceState { state, reserved: 0 };
        self.feature_set(feature::MIG_DEVICE_STATE, data.as_bytes())
    }

    /// The next piece of the device's saved state, of up to `len` bytes; fewer end it for now. Specification,
    /// "VFIO_USER_MIG_DATA_READ".
    ///
    /// # Errors
    ///
    /// If the device is in no state to be saved.
    pub fn migration_read(&mut self, len: usize) -> Result<Vec<u8>> {
        let head = size_of::<MigData>();
        let size = u32::try_from(len).map_err(|_| ClientError::TooLong)?;
        let request = MigData {
            argsz: size.checked_add(head as u32).ok_or(ClientError::TooLong)?,
            size,
        };
        let mut reply = self.ask(command::MIG_DATA_READ, request.as_bytes(), head + len)?;
        let answer: MigData = read(&reply)?;
        let data = reply.split_off(head);
        match data.len() == answer.size as usize {
            true => Ok(data),
            false => Err(ClientError::Protocol("MIG_DATA_READ answered out of step")),
        }
    }

    /// Gives the device a piece of a saved state. Specification, "VFIO_USER_MIG_DATA_WRITE".
    ///
    /// # Errors
    ///
    /// If the device is in no state to be restored, or refuses the data.
    pub fn migration_write(&mut self, data: &[u8]) -> Result<()> {
        let head = size_of::<MigData>();
        let size = u32::try_from(data.len()).map_err(|_| ClientError::TooLong)?;
        let request = MigData {
            argsz: size.checked_add(head as u32).ok_or(ClientError::TooLong)?,
            size,
        };
        let expected = Expected {
            payload: head,
            fds: 0,
        };
        let parts = [request.as_bytes(), data];
        let ticket = self.submit_parts(command::MIG_DATA_WRITE, &parts, &[], expected)?;
        self.collect(ticket)?;
        Ok(())
    }

    /// All that the device has to say in its present state, to its end, but at most `most` bytes.
    /// Specification, "VFIO_USER_MIG_DATA_READ".
    ///
    /// # Errors
    ///
    /// If the device is in no state to be saved, or [`TooLong`](ClientError::TooLong).
    pub fn read_state(&mut self, most: usize) -> Result<Vec<u8>> {
        let piece = self.piece();
        let mut state = Vec::new();
        loop {
            let data = self.migration_read(piece)?;
            state.extend_from_slice(&data);
            if state.len() > most {
                return Err(ClientError::TooLong);
            }
            if data.len() < piece {
                return Ok(state);
            }
        }
    }

    /// Gives the device a whole saved state. Specification, "VFIO_USER_MIG_DATA_WRITE".
    ///
    /// # Errors
    ///
    /// If the device is in no state to be restored, or refuses the data.
    pub fn write_state(&mut self, state: &[u8]) -> Result<()> {
        let piece = self.piece();
        state
            .chunks(piece)
            .try_for_each(|data| self.migration_write(data))
    }

    fn piece(&self) -> usize {
        self.server.max_data_xfer_size.clamp(1, PIECE.min(MAX_DATA))
    }

    /// Has the device note which pages of `ranges` (of everything if there are none) it writes. Returns the size of
    /// those pages, which is the device's choice in the end. Specification, "VFIO_DEVICE_FEATURE_DMA_LOGGING_START".
    ///
    /// # Errors
    ///
    /// If it cannot, or does so already with pages of another size.
    pub fn dma_logging_start(&mut self, page_size: u64, ranges: &[LoggingRange]) -> Result<u64> {
        let start = LoggingStart {
            page_size,
            num_ranges: u32::try_from(ranges.len()).map_err(|_| ClientError::TooLong)?,
            reserved: 0,
        };
        let data = [start.as_bytes(), ranges.as_bytes()].concat();
        let flags = feature::DMA_LOGGING_START | feature_flags::SET;
        let reply = self.feature(flags, &data, data.len())?;
        let chosen: LoggingStart = read(&reply[size_of::<Feature>()..])?;
        match chosen.page_size.is_power_of_two() {
            true => Ok(chosen.page_size),
            false => Err(ClientError::Protocol("a page size that is none")),
        }
    }

    /// Has the device note nothing any more. Specification, "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP".
    ///
    /// # Errors
    ///
    /// If it did not.
    pub fn dma_logging_stop(&mut self) -> Result<()> {
        self.feature_set(feature::DMA_LOGGING_STOP, &[])
    }

    /// Which pages of a range the device wrote since it was asked last: one bit per `page_size` bytes, from the lowest
    /// of the first word on. Specification, "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT".
    ///
    /// # Errors
    ///
    /// If the range is not logged.
    pub fn dma_logging_report(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
    ) -> Result<Vec<u64>> {
        let words = bitmap_words(length, page_size)?;
        let report = LoggingReport {
            iova,
            length,
            page_size,
        };
        let len = size_of::<LoggingReport>() + 8 * words;
        let data = self.feature_get(feature::DMA_LOGGING_REPORT, report.as_bytes(), len)?;
        match LoggingReport::read_from_prefix(&data) {
            Ok((echo, bits)) if echo == report && bits.len() == 8 * words => Ok(words_of(bits)),
            _ => Err(ClientError::Protocol("a report about something else")),
        }
    }
}
