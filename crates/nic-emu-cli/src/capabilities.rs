//! What this program can do, for the programs that start it.

use serde::Serialize;

use crate::models::Model;

/// The document of `--print-capabilities`: `type` and `features` follow the convention of vhost-user back-end
/// programs (QEMU, docs/interop/vhost-user.rst, "Backend program conventions").
#[derive(Debug, Serialize)]
pub struct Capabilities {
    r#type: &'static str,
    protocol: &'static str,
    version: &'static str,
    features: Vec<&'static str>,
    models: Vec<&'static str>,
    net: Vec<&'static str>,
}

impl Capabilities {
    /// Those of this build.
    pub fn current() -> Self {
        Self {
            r#type: "net",
            protocol: "vfio-user",
            version: env!("CARGO_PKG_VERSION"),
            features: vec![
                "socket-path",
                "fd",
                "nic",
                "socket-mode",
                "socket-group",
                "rom",
                "pcap",
                "fault",
                "control",
            ],
            models: Model::ALL.map(Model::name).to_vec(),
            net: vec!["tap", "switch", "null"],
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_names_type_and_models() {
        let json = serde_json::to_value(super::Capabilities::current()).unwrap();
        assert_eq!(json["type"], "net");
        assert_eq!(json["models"][0], "e1000");
    }
}
