//! What a server says of itself with VERSION.

use serde_json::Value;

/// The server's side of the negotiation, as far as a client acts on it. Specification, "VFIO_USER_VERSION".
///
/// Source: the specification, "Version" and its table of capabilities; limits as QEMU 11.1 checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// File descriptors it takes with one message (`max_msg_fds`).
    pub max_msg_fds: usize,
    /// Bytes of data it takes and gives in one message (`max_data_xfer_size`).
    pub max_data_xfer_size: usize,
    /// Maps it takes (`max_dma_maps`).
    pub max_dma_maps: u64,
    /// Page sizes of DMA_MAP, one bit for each (`pgsizes`).
    pub pgsizes: u64,
    /// It understands REGION_WRITE_MULTI (`write_multiple`).
    pub write_multiple: bool,
    /// Which descriptor of the reply is the socket for its own commands (`twin_socket.fd_index`).
    pub(super) twin: Option<u64>,
}

/// Most descriptors and data that QEMU lets a server announce.
const MOST_FDS: u64 = 16;
const MOST_DATA: u64 = 64 << 20;

impl Capabilities {
    /// What holds for a server that announces nothing, to which `default_fds` may be sent at once.
    pub(super) fn unannounced(default_fds: usize) -> Self {
        Self {
            max_msg_fds: default_fds,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65535,
            pgsizes: 4096,
            write_multiple: false,
            twin: None,
        }
    }

    /// From JSON with its NUL, or nothing.
    pub(super) fn parse(json: &[u8], default_fds: usize) -> Result<Self, &'static str> {
        let mut caps = Self::unannounced(default_fds);
        let text = match json {
            [] => return Ok(caps),
            [text @ .., 0] => text,
            _ => return Err("the capabilities do not end with a NUL"),
        };
        let json: Value =
            serde_json::from_slice(text).map_err(|_| "the capabilities are not valid JSON")?;
        let root = json.as_object().ok_or("the capabilities are no object")?;
        let Some(list) = root.get("capabilities") else {
            return Ok(caps);
        };
        let list = list.as_object().ok_or("`capabilities` is no object")?;
        let number = |value: &Value| value.as_u64();
        if let Some(value) = list.get("max_msg_fds") {
            let n = number(value).filter(|n| *n <= MOST_FDS);
            caps.max_msg_fds = n.ok_or("`max_msg_fds` is not a number up to 16")? as usize;
        }
        if let Some(value) = list.get("max_data_xfer_size") {
            let n = number(value).filter(|n| *n <= MOST_DATA);
            let n = n.ok_or("`max_data_xfer_size` is not a number up to 64 MiB")?;
            caps.max_data_xfer_size = n as usize;
        }
        if let Some(value) = list.get("max_dma_maps") {
            let n = number(value).filter(|n| *n <= 65535);
            caps.max_dma_maps = n.ok_or("`max_dma_maps` is not a number up to 65535")?;
        }
        let pages = |value: &Value| number(value).filter(|n| *n != 0 && n % 4096 == 0);
        if let Some(value) = list.get("pgsizes") {
            caps.pgsizes = pages(value).ok_or("`pgsizes` is not a multiple of 4096")?;
        }
        if let Some(migration) = list.get("migration") {
            let migration = migration.as_object().ok_or("`migration` is no object")?;
            let page = migration.get("pgsize");
            if page.is_some_and(|value| pages(value).is_none()) {
                return Err("`migration.pgsize` is not a multiple of 4096");
            }
        }
        if let Some(value) = list.get("write_multiple") {
            let value = value.as_bool().ok_or("`write_multiple` is not a boolean");
            caps.write_multiple = value?;
        }
        if let Some(twin) = list.get("twin_socket") {
            let twin = twin.as_object().ok_or("`twin_socket` is no object")?;
            let supported = match twin.get("supported") {
                None => false,
                Some(value) => value.as_bool().ok_or("`supported` is not a boolean")?,
            };
            if supported {
                let index = twin.get("fd_index").and_then(number);
                caps.twin = Some(index.ok_or("`twin_socket` comes without `fd_index`")?);
            }
        }
        Ok(caps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_announced_means_the_defaults() {
        let none = Capabilities::unannounced(8);
        for json in [&b""[..], b"{}\0", b"{\"capabilities\":{}}\0"] {
            assert_eq!(Capabilities::parse(json, 8), Ok(none));
        }
    }

    #[test]
    fn all_of_them() {
        let json = br#"{"capabilities":{"max_msg_fds":4,"max_data_xfer_size":4096,"max_dma_maps":7,"pgsizes":12288,
            "write_multiple":true,"twin_socket":{"supported":true,"fd_index":1},"new":[]}}"#;
        let caps = Capabilities::parse(&[&json[..], &[0]].concat(), 8).unwrap();
        let wanted = Capabilities {
            max_msg_fds: 4,
            max_data_xfer_size: 4096,
            max_dma_maps: 7,
            pgsizes: 12288,
            write_multiple: true,
            twin: Some(1),
        };
        assert_eq!(caps, wanted);
    }

    #[test]
    fn senseless_ones_are_refused() {
        for json in [
            "{}",
            "{\0",
            "[]\0",
            "\"\0",
            "\0",
            "{\"capabilities\":[]}\0",
            "{\"capabilities\":{\"max_msg_fds\":17}}\0",
            "{\"capabilities\":{\"max_msg_fds\":-1}}\0",
            "{\"capabilities\":{\"max_data_xfer_size\":67108865}}\0",
            "{\"capabilities\":{\"max_dma_maps\":65536}}\0",
            "{\"capabilities\":{\"pgsizes\":0}}\0",
            "{\"capabilities\":{\"migration\":1}}\0",
            "{\"capabilities\":{\"migration\":{\"pgsize\":4095}}}\0",
            "{\"capabilities\":{\"write_multiple\":1}}\0",
            "{\"capabilities\":{\"twin_socket\":1}}\0",
            "{\"capabilities\":{\"twin_socket\":{\"supported\":1}}}\0",
            "{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}\0",
        ] {
            assert!(Capabilities::parse(json.as_bytes(), 8).is_err(), "{json}");
        }
    }
}
