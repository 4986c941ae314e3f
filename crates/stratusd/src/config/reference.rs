//! The commented configuration file.

/// All keys with what they mean, each with its default behind a `#`.
pub const TEXT: &str = include_str!("../../../../packaging/stratusd.toml.ref");

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError};

    use super::TEXT;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("stratusd.toml"))
    }

    /// The reference with every key in force. Comments have a space after their `#`.
    fn in_force() -> String {
        let line = |line: &'static str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        };
        TEXT.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_reference_file_shows_the_defaults() {
        assert_eq!(parse(TEXT).unwrap(), Config::default());
        assert_eq!(parse(&in_force()).unwrap(), Config::default());
    }

    #[test]
    fn the_reference_file_shows_every_key() {
        fn keys(table: &toml::Table, within: &str) -> Vec<String> {
            let key = |(name, value): (&String, &toml::Value)| match value {
                toml::Value::Table(table) => keys(table, &format!("{within}{name}.")),
                _ => vec![format!("{within}{name}")],
            };
            table.iter().flat_map(key).collect()
        }
        let shown: toml::Table = toml::from_str(&in_force()).unwrap();
        let known = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(keys(&shown, ""), keys(&known, ""));
    }

    #[test]
    fn a_typing_error_is_named_with_what_may_have_been_meant() {
        for (text, key, nearest) in [
            ("listne = 1", "listne", "listen"),
            (
                "[machines]\ncpu_modle = 'host'",
                "machines.cpu_modle",
                "cpu_model",
            ),
            ("[networks.x]\nsubnett = ''", "networks.x.subnett", "subnet"),
            (
                "[machine_types.\"a\"]\ncpu = 1",
                "machine_types.a.cpu",
                "cpus",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("no key `{key}`")), "{message}");
            assert!(
                message.contains(&format!("is `{nearest}` meant?")),
                "{message}"
            );
        }
        let message = parse("xylophone = 1").unwrap_err().to_string();
        assert!(!message.contains("meant"), "{message}");
    }

    #[test]
    fn values_that_can_not_be_are_refused_by_name() {
        for (text, key) in [
            ("instance = 'long'", "instance"),
            ("listen = 'here'", "listen"),
            ("state_dir = 'relative'", "state_dir"),
            ("[tls]\nkey = '/k'", "tls.certificate"),
            ("[machines]\naccelerator = 'xen'", "machines.accelerator"),
            ("[machines]\ndefault_type = 'x'", "machines.default_type"),
            (
                "[machine_types.'m1.small']\ncpus = 0\nmemory_mib = 64",
                "machine_types.\"m1.small\"",
            ),
            (
                "[placement]\ncpu_overcommit = nan",
                "placement.cpu_overcommit",
            ),
            ("[network]\ndns_upstream = ['dns']", "network.dns_upstream"),
            (
                "[network]\ntunnel_address = 'eth0'",
                "network.tunnel_address",
            ),
            (
                "[network]\ntunnel_address = '127.0.0.1'",
                "network.tunnel_address",
            ),
            ("[network]\ndefault = 'x'", "network.default"),
            ("[limits]\nbody_kib = 0", "limits.body_kib"),
            (
                "[accounts]\npassword_memory_kib = 1000000",
                "accounts.password_memory_kib",
            ),
            (
                "[limits]\ntrusted_proxies = ['here']",
                "limits.trusted_proxies",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/31'\ndomain='a'\nnat=true",
                "networks.a.subnet",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/24'\ndomain='a'\nnat=true\nfirst='10.1.0.1'",
                "networks.a.first",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/24'\ndomain='a'\nnat=true\nsubnet6='fd00::/48'",
                "networks.a.subnet6",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/24'\ndomain='a'\nnat=true\nbridge='br-eth1'",
                "networks.a.nat",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/24'\ndomain='a'\nnat=false\nbridge='br-eth1'\ngateway='10.0.0.1'",
                "networks.a.first",
            ),
            (
                "[networks.a]\nclass='public'\ntag='0'\nsubnet='10.0.0.0/24'\ndomain='a'\nnat=false\nbridge='br eth1'",
                "networks.a.bridge",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{text}: {message}");
        }
    }

    #[test]
    fn networks_must_not_overlap() {
        let network = |name: &str, tag: &str, subnet: &str| {
            format!(
                "[networks.{name}]\nclass='public'\ntag='{tag}'\nsubnet='{subnet}'\ndomain='a'\nnat=true\n"
            )
        };
        let text = network("public", "0", "10.0.0.0/16") + &network("b", "1", "10.0.7.0/24");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("overlaps"), "{message}");
        let ipv6 = "subnet6='fd00:0:0:1::/64'\n";
        let text =
            network("public", "0", "10.0.0.0/16") + ipv6 + &network("b", "1", "10.1.0.0/16") + ipv6;
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("as that of `networks.b`"), "{message}");
    }

    #[test]
    fn a_message_about_a_kind_of_value_says_where() {
        let message = parse("\n[limits]\nconnections = 'many'\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 3"), "{message}");
        assert!(
            message.contains("expected a whole number that is not negative"),
            "{message}"
        );
    }

    #[test]
    fn the_page_of_the_documentation_is_the_reference() {
        let page = include_str!("../../../../docs/admin/configuration.md");
        assert!(
            page.contains(TEXT.trim_end()),
            "copy packaging/stratusd.toml.ref into docs/admin/configuration.md"
        );
    }
}
