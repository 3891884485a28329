//! Negotiation: what a client proposes, and what we answer.
//!
//! QEMU receives the answer into the buffer of its proposal, so ours is never longer; what does not fit is left to
//! the protocol's defaults.

use serde_json::Value;
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{MAX_DATA, MAX_DMA_MAPS, MAX_FDS, MINOR, Version};

/// A proposal that we cannot take, in words for the log.
pub(crate) type Refused = &'static str;

/// What a client proposed: version 0 of the protocol, and what the client can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    minor: u16,
    /// Bytes of the JSON, its NUL included.
    room: usize,
    /// Descriptors that it takes with one message.
    pub(crate) max_fds: usize,
    /// Bytes of data that it takes in one message, and sends in one.
    pub(crate) max_data: usize,
    /// It wants a second socket for our commands.
    pub(crate) twin_socket: bool,
    /// It sends REGION_WRITE_MULTI.
    pub(crate) write_multiple: bool,
}

impl Default for Proposal {
    /// What the specification assumes of a client that says nothing.
    fn default() -> Self {
        Self {
            minor: 0,
            room: 0,
            max_fds: 1,
            max_data: MAX_DATA,
            twin_socket: false,
            write_multiple: false,
        }
    }
}

impl Proposal {
    /// Understands the payload of VERSION.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Refused> {
        let (version, json) =
            Version::read_from_prefix(payload).map_err(|_| "the version is missing")?;
        if version.major != 0 {
            return Err("the major version is not 0");
        }
        let silent = Self {
            minor: version.minor,
            room: json.len(),
            ..Self::default()
        };
        match json {
            [] => Ok(silent),
            json => silent.with(json),
        }
    }

    /// The payload of the reply, with which the client's end of the second socket comes if `twin`.
    pub(crate) fn answer(&self, twin: bool) -> Vec<u8> {
        let version = Version {
            major: 0,
            minor: self.minor.min(MINOR),
        };
        let mut reply = version.as_bytes().to_vec();
        // Who wants a second socket is not QEMU, and gets to know all.
        let room = if twin { usize::MAX } else { self.room };
        reply.extend_from_slice(capabilities(room, self.write_multiple, twin).as_bytes());
        reply
    }

    /// Takes over the proposed capabilities, if they make sense.
    fn with(mut self, json: &[u8]) -> Result<Self, Refused> {
        let [text @ .., 0] = json else {
            return Err("the capabilities do not end with a NUL");
        };
        let json: Value =
            serde_json::from_slice(text).map_err(|_| "the capabilities are not valid JSON")?;
        let root = json.as_object().ok_or("the capabilities are no object")?;
        let Some(capabilities) = root.get("capabilities") else {
            return Ok(self);
        };
        let capabilities = capabilities
            .as_object()
            .ok_or("`capabilities` is no object")?;
        let is_page_size = |value: &Value| value.as_u64().is_some_and(|n| n != 0 && n % 4096 == 0);

        if let Some(value) = capabilities.get("max_msg_fds") {
            let fds = value.as_u64().filter(|n| *n <= 1024);
            let fds = fds.ok_or("`max_msg_fds` is not a number up to 1024")?;
            self.max_fds = MAX_FDS.min(fds as usize);
        }
        if let Some(value) = capabilities.get("max_data_xfer_size") {
            let bytes = value
                .as_u64()
                .ok_or("`max_data_xfer_size` is not a number")?;
            self.max_data = bytes.min(MAX_DATA as u64) as usize;
        }
        if !capabilities.get("max_dma_maps").is_none_or(Value::is_u64) {
            return Err("`max_dma_maps` is not a number");
        }
        if !capabilities.get("pgsizes").is_none_or(is_page_size) {
            return Err("`pgsizes` is not a multiple of 4096");
        }
        if !capabilities.get("migration").is_none_or(|v| {
            v.as_object()
                .is_some_and(|m| m.get("pgsize").is_none_or(is_page_size))
        }) {
            return Err("`migration` is no object, or its `pgsize` is not a multiple of 4096");
        }
        if let Some(value) = capabilities.get("twin_socket") {
            let supported = value.as_object().and_then(|twin| {
                let supported = twin.get("supported");
                supported.map_or(Some(false), Value::as_bool)
            });
            self.twin_socket = supported
                .ok_or("`twin_socket` is no object, or its `supported` is not a boolean")?;
        }
        if let Some(value) = capabilities.get("write_multiple") {
            let multiple = value.as_bool();
            self.write_multiple = multiple.ok_or("`write_multiple` is not a boolean")?;
        }
        Ok(self)
    }
}

/// Our capabilities as JSON with its NUL, in at most `room` bytes; the ones that matter most come first.
fn capabilities(room: usize, write_multiple: bool, twin: bool) -> String {
    const TWIN: &str = r#"{"supported":true,"fd_index":0}"#;
    let mut list = String::new();
    let frame = |list: &str| format!("{{\"capabilities\":{{{list}}}}}\0");
    for (wanted, key, value) in [
        (true, "max_msg_fds", MAX_FDS.to_string()),
        (write_multiple, "write_multiple", "true".to_owned()),
        (true, "max_data_xfer_size", MAX_DATA.to_string()),
        (true, "max_dma_maps", MAX_DMA_MAPS.to_string()),
        (twin, "twin_socket", TWIN.to_owned()),
    ] {
        let comma = if list.is_empty() { "" } else { "," };
        let longer = format!("{list}{comma}\"{key}\":{value}");
        if wanted && frame(&longer).len() <= room {
            list = longer;
        }
    }
    let framed = frame(&list);
    match room {
        room if framed.len() <= room => framed,
        3.. => "{}\0".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &[u8]) -> Result<Vec<u8>, Refused> {
        Proposal::parse(payload).map(|proposal| proposal.answer(false))
    }

    fn payload(major: u16, minor: u16, json: &str) -> Vec<u8> {
        let mut bytes = Version { major, minor }.as_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    /// What QEMU 11.1 proposes, to the byte.
    const QEMU: &str = concat!(
        r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"#,
        r#""max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"#,
        "\"write_multiple\":true}}\0"
    );

    #[test]
    fn qemu_gets_all_capabilities_in_less_than_it_sent() {
        let request = payload(0, 0, QEMU);
        let reply = answer(&request).unwrap();
        assert!(reply.len() <= request.len() && reply.len() + 16 <= 214);
        assert_eq!(reply[..4], [0; 4]);
        let json: Value = serde_json::from_slice(&reply[4..reply.len() - 1]).unwrap();
        assert_eq!(reply.last(), Some(&0));
        assert_eq!(
            json["capabilities"],
            serde_json::json!({
                "max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "max_dma_maps": 16384, "write_multiple": true
            })
        );
    }

    #[test]
    fn what_the_client_can_do_is_remembered_within_our_own_limits() {
        let parse = |json| Proposal::parse(&payload(0, 0, json)).unwrap();
        let qemu = parse(QEMU);
        assert_eq!((qemu.max_fds, qemu.max_data), (16, 1 << 20));
        assert!(qemu.write_multiple);
        let silent = parse("");
        assert_eq!((silent.max_fds, silent.max_data), (1, 1 << 20));
        let odd = "{\"capabilities\":{\"max_msg_fds\":1024,\"max_data_xfer_size\":4099}}\0";
        assert_eq!((parse(odd).max_fds, parse(odd).max_data), (16, 4099));
    }

    #[test]
    fn the_answer_is_never_longer_than_the_proposal() {
        for spaces in 0..300 {
            let json = format!("{{{}}}\0", " ".repeat(spaces));
            let request = payload(0, 0, &json);
            let reply = answer(&request).unwrap();
            assert!(reply.len() <= request.len());
            let text = reply[4..].strip_suffix(&[0]).unwrap();
            assert!(serde_json::from_slice::<Value>(text).unwrap().is_object());
        }
        assert_eq!(answer(&payload(0, 1, "")).unwrap(), [0, 0, 1, 0]);
    }

    #[test]
    fn the_minor_version_is_the_smaller_one() {
        for (theirs, ours) in [(0, 0), (1, 1), (2, 2), (3, 2), (u16::MAX, 2)] {
            let reply = answer(&payload(0, theirs, "{}\0")).unwrap();
            assert_eq!(u16::from_le_bytes([reply[2], reply[3]]), ours);
        }
    }

    #[test]
    fn senseless_proposals_are_refused() {
        assert!(answer(&[]).is_err());
        assert!(answer(&[0, 0, 0]).is_err());
        assert!(answer(&payload(1, 0, "")).is_err());
        for json in [
            "{}",
            "{\0",
            "\"\0",
            "[]\0",
            "\0",
            r#"{"capabilities":[]}"#,
            r#"{"capabilities":"x"}"#,
            r#"{"capabilities":{"max_msg_fds":"8"}}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_msg_fds":1025}}"#,
            r#"{"capabilities":{"migration":7}}"#,
            r#"{"capabilities":{"migration":{"pgsize":"4096"}}}"#,
            r#"{"capabilities":{"migration":{"pgsize":4095}}}"#,
            r#"{"capabilities":{"pgsizes":0}}"#,
            r#"{"capabilities":{"twin_socket":{"supported":1}}}"#,
            r#"{"capabilities":{"write_multiple":1}}"#,
        ] {
            let json = match json {
                "{}" => json.to_owned(),
                _ => format!("{}\0", json.trim_end_matches('\0')),
            };
            assert!(answer(&payload(0, 0, &json)).is_err(), "{json:?}");
        }
        let deep = format!("{}\0", "[".repeat(100_000));
        assert!(answer(&payload(0, 0, &deep)).is_err());
    }
}
