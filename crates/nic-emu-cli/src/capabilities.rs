//! What this program can do, for the programs that start it.

use serde::Serialize;

use crate::args::MAX_SHARDS;
use crate::models::Model;

/// The document of `--print-capabilities`: `type` and `features` follow the convention of vhost-user back-end
/// programs (QEMU, docs/interop/vhost-user.rst, "Backend program conventions").
#[derive(Debug, Serialize)]
pub struct Capabilities {
    r#type: &'static str,
    protocol: &'static str,
    version: &'static str,
    features: Vec<&'static str>,
    commands: Vec<&'static str>,
    models: Vec<&'static str>,
    net: Vec<&'static str>,
    max_shards: u16,
}

impl Capabilities {
    /// Those of this build. What `serve` takes as an option or as a key of `--nic` is a feature of the same name.
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
                "mac",
                "rom",
                "eeprom",
                "flash",
                "msi",
                "migration",
                "rx-overrun",
                "ifname",
                "tap-fd",
                "ip",
                "bridge",
                "offload",
                "pcap",
                "fault",
                "control",
                "busy-poll",
                "shards",
                "cpus",
            ],
            commands: vec!["serve", "models", "inspect", "link"],
            models: Model::ALL.map(Model::name).to_vec(),
            net: vec!["tap", "switch", "null"],
            max_shards: MAX_SHARDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;
    use crate::config::KEYS;

    #[test]
    fn the_document_names_type_and_models() {
        let json = serde_json::to_value(Capabilities::current()).unwrap();
        assert_eq!(json["type"], "net");
        assert_eq!(json["models"][0], "e1000");
        assert_eq!(json["models"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["max_shards"], 1024);
    }

    /// Whoever adds an option, a key or a command says so here, too.
    #[test]
    fn all_that_can_be_asked_for_is_named() {
        let capabilities = Capabilities::current();
        let cli = Cli::command();
        let commands: Vec<_> = cli.get_subcommands().map(|c| c.get_name()).collect();
        assert_eq!(commands, capabilities.commands);

        let serve = cli.find_subcommand("serve").expect("a command");
        let options = serve
            .get_arguments()
            .filter_map(|argument| argument.get_long());
        let keys = KEYS.split([',', ' ']).filter(|word| !word.is_empty());
        let words = ["with", "also", "and", "net=tap", "net=switch"];
        let keys = keys.filter(|word| !words.contains(word));
        // These have lists of their own.
        let asked = options
            .chain(keys)
            .filter(|name| !["net", "model", "switch"].contains(name));
        let mut seen = 0;
        for name in asked {
            let name = if name.starts_with("fault-") {
                "fault"
            } else {
                name
            };
            assert!(capabilities.features.contains(&name), "{name}");
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
