//! The files of both media, read by the programs that read them in a guest: shells and a YAML parser.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use context::decoding::accept_user_data;
use context::encoding::{Part, multipart};
use context::{
    AuthorizedKeys, Context, ContextMethod, Ipv6Settings, MediumFile, Nic, Variables,
    context_medium, nocloud,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Debian's, busybox's (tiny guests) and the one of most others.
const SHELLS: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash", "--posix"]];

fn context_with(variables: Variables, keys: &str) -> Context {
    Context {
        vmid: 7,
        machine_name: "one-7".into(),
        instance_id: "i-7".into(),
        hostname: "one-7".parse().unwrap(),
        method: ContextMethod::OpenNebula,
        public_keys: AuthorizedKeys::parse(keys).unwrap(),
        variables,
        user_data: None,
        nics: vec![Nic {
            mac: "02:00:0a:00:00:07".parse().unwrap(),
            ipv4: None,
            ipv6: Some(Ipv6Settings {
                address: "fd00::aff:fe00:7".parse().unwrap(),
                gateway: "fd00::1".parse().unwrap(),
            }),
            mtu_bytes: Some(1450),
        }],
    }
}

fn place(files: &[MediumFile]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in files {
        std::fs::write(folder.path().join(&file.path), &file.content).unwrap();
    }
    folder
}

/// Runs `script` in `shell` with an empty environment; nothing when the shell is missing.
fn run_shell(shell: &[&str], folder: &Path, script: &str) -> Option<String> {
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .args(["-c", script])
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output();
    match output {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && errors.is_empty(),
                "{shell:?}: {errors}"
            );
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("skipped: cannot run {shell:?}: {error}");
            None
        }
    }
}

const HOSTILE: [&str; 8] = [
    "'; touch broken; '",
    "$(touch broken)`touch broken`",
    "a\nPATH=/nowhere\nb",
    "\\'\\''\"\\",
    "trailing\\",
    "~ * ? [a] ! # & | < > ( ) ;",
    "é ü \u{1f980} \u{202e}",
    "\u{1b}]0;x\u{7}\r\t",
];

#[test]
fn shells_read_hostile_values_unchanged() {
    let mut variables = Variables::new();
    for (number, value) in HOSTILE.iter().enumerate() {
        variables.set(&format!("V{number}"), *value).unwrap();
    }
    let folder = place(&context_medium::files(&context_with(variables, "")));
    for shell in SHELLS {
        for (number, value) in HOSTILE.iter().enumerate() {
            let script = format!(". ./context.sh; printf '%s' \"$V{number}\"");
            let Some(shown) = run_shell(shell, folder.path(), &script) else {
                continue;
            };
            assert_eq!(&shown, value, "{shell:?}");
        }
    }
    assert!(!folder.path().join("broken").exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shells_read_any_value_unchanged(value in "[^\\x00]{0,200}") {
        let variables = Variables::from_pairs([("ANY", value.as_str())]).unwrap();
        let folder = place(&context_medium::files(&context_with(variables, "")));
        for shell in SHELLS {
            if let Some(shown) = run_shell(shell, folder.path(), ". ./context.sh; printf '%s' \"$ANY\"") {
                prop_assert_eq!(&shown, &value);
            }
        }
    }
}

/// Runs `init.sh` and `epilog.sh` as a guest does, with `/root`, `/tmp` and `/var/lib` of its own.
#[test]
fn init_adds_each_key_once_and_runs_the_script_once_a_boot() {
    if !is_root() {
        println!("skipped: needs root, for a mount namespace with a /root of its own");
        return;
    }
    let script = "echo \"$PDISK_DEVICE\" >> /root/ran\n";
    let variables =
        Variables::from_pairs([("SCRIPT_EXEC", script), ("PDISK_DEVICE", "it's hdc")]).unwrap();
    let files = context_medium::files(&context_with(variables, "ssh-rsa A a\nssh-rsa B b\n"));
    for shell in SHELLS {
        let folder = place(&files);
        let shell_text = shell.join(" ");
        let medium = folder.path().display();
        let steps = format!(
            "set -e
             for place in /root /var/lib /mnt; do mount -t tmpfs none $place; done
             mkdir /root/.ssh /mnt/stratuslab; printf 'ssh-rsa OLD old\\nssh-rsa A a' > /root/.ssh/authorized_keys
             {shell_text} {medium}/init.sh
             (cd {medium}; {shell_text} init.sh; {shell_text} -c '. ./init.sh; test -z \"$PUBLIC_KEY\"')
             cp {medium}/context.sh /mnt/stratuslab; mkdir /root/copy; cp {medium}/init.sh /root/copy
             (cd /; {shell_text} /root/copy/init.sh)
             cat /root/.ssh/authorized_keys; echo --; cat /root/ran; echo --
             stat -c %a /root/.ssh /root/.ssh/authorized_keys; echo --
             {shell_text} {medium}/epilog.sh
             cat /root/.ssh/authorized_keys /root/ran"
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &steps])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: cannot run unshare: {error}");
                return;
            }
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && errors.is_empty(),
            "{shell:?}: {errors}"
        );
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "ssh-rsa OLD old\nssh-rsa A a\nssh-rsa B b\n--\nit's hdc\n--\n700\n600\n--\nssh-rsa A a\nssh-rsa B b\nit's hdc\n",
            "{shell:?}"
        );
    }
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

/// The parsed YAML as JSON by PyYAML, which cloud-init uses; nothing when it is not installed.
fn as_json(yaml: &[u8]) -> Option<String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, yaml).unwrap();
    let program = "import sys\ntry:\n import yaml\nexcept ImportError:\n sys.exit(77)\nimport json\n\
                   print(json.dumps(yaml.safe_load(open(sys.argv[1], 'rb')), sort_keys=True), end='')";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(&file)
        .output();
    match output {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) if output.status.code() == Some(77) => {
            println!("skipped: python3 has no yaml module");
            None
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("skipped: cannot run python3: {error}");
            None
        }
    }
}

/// `text` as `json.dumps` writes it.
fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(b'"') => json.push_str("\\\""),
            Ok(b'\\') => json.push_str("\\\\"),
            Ok(b'\n') => json.push_str("\\n"),
            Ok(b'\r') => json.push_str("\\r"),
            Ok(b'\t') => json.push_str("\\t"),
            Ok(8) => json.push_str("\\b"),
            Ok(12) => json.push_str("\\f"),
            Ok(byte @ b' '..=b'~') => json.push(char::from(byte)),
            _ => json.push_str(&format!("\\u{unit:04x}")),
        }
    }
    json.push('"');
    json
}

fn file_of(context: &Context, path: &str) -> Vec<u8> {
    nocloud::files(context)
        .into_iter()
        .find(|file| file.path == path)
        .unwrap()
        .content
}

#[test]
fn the_nocloud_files_mean_what_they_should() {
    let mut context = context_with(
        Variables::new(),
        "# mine\nssh-rsa A \"quoted\": - x\nssh-rsa B b\n",
    );
    context.user_data = Some(accept_user_data(vec![0, 255, 10]).unwrap());
    assert_eq!(file_of(&context, "user-data"), [0, 255, 10]);
    let Some(meta_data) = as_json(&file_of(&context, "meta-data")) else {
        return;
    };
    assert_eq!(
        meta_data,
        r#"{"instance-id": "i-7", "local-hostname": "one-7", "public-keys": ["ssh-rsa A \"quoted\": - x", "ssh-rsa B b"]}"#
    );
    assert_eq!(
        as_json(&file_of(&context, "network-config")).unwrap(),
        r#"{"ethernets": {"eth0": {"addresses": ["fd00::aff:fe00:7/64"], "dhcp4": true, "match": {"macaddress": "02:00:0a:00:00:07"}, "mtu": 1450, "routes": [{"to": "::/0", "via": "fd00::1"}], "set-name": "eth0"}}, "version": 2}"#
    );
    assert_eq!(
        as_json(&file_of(&context, "vendor-data")).unwrap(),
        r#"{"disable_root": false}"#
    );
    context.nics.clear();
    context.user_data = None;
    let paths: BTreeMap<_, _> = nocloud::files(&context)
        .into_iter()
        .map(|file| (file.path, file.content.len()))
        .collect();
    assert_eq!(
        paths.get("user-data"),
        Some(&0),
        "the file must be there, even when it is empty"
    );
    assert!(!paths.contains_key("network-config"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn yaml_values_cannot_break_out(instance_id in "(?s).{500,2000}") {
        let mut context = context_with(Variables::new(), "");
        context.instance_id = instance_id;
        let meta_data = file_of(&context, "meta-data");
        prop_assert!(meta_data.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'));
        prop_assert_eq!(meta_data.iter().filter(|byte| **byte == b'\n').count(), 2);
        if let Some(json) = as_json(&meta_data) {
            prop_assert_eq!(json, format!(r#"{{"instance-id": {}, "local-hostname": "one-7"}}"#, json_string(&context.instance_id)));
        }
    }
}

/// The parts of a multipart text as Python's own reader sees them, which is cloud-init's: type, file name, content in hexadecimal.
fn parts_by_python(text: &[u8]) -> Option<String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, text).unwrap();
    let program = "import email, sys\nm = email.message_from_binary_file(open(sys.argv[1], 'rb'))\nassert m.is_multipart()\n\
                   for p in m.get_payload():\n print(p.get_content_type(), p.get_filename(), p.get_payload(decode=True).hex())";
    match Command::new("python3")
        .args(["-c", program])
        .arg(&file)
        .output()
    {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("skipped: cannot run python3: {error}");
            None
        }
    }
}

#[test]
fn multipart_texts_come_back_whole() {
    let boundary_of_the_first = "--===============0000000000==\n--===============0000000000==--\n";
    let contents: [(&str, &[u8]); 9] = [
        ("run.sh", b"#!/bin/sh\necho hi\n"),
        ("no end", b"#!/bin/sh"),
        ("empty", b""),
        ("lines", b"\n\nFrom me\n\n\n"),
        ("dos", b"a\r\nb\r\n"),
        ("boundary", boundary_of_the_first.as_bytes()),
        ("caf\u{e9}.yaml", "#cloud-config\nname: \u{e9}\n".as_bytes()),
        ("binary \"\\", &[0, 255, 10, 13, 10]),
        ("long", &[b'x'; 5000]),
    ];
    let parts: Vec<Part> = contents
        .iter()
        .map(|(name, content)| Part {
            subtype: "cloud-config".into(),
            file_name: (*name).into(),
            content: content.to_vec(),
        })
        .collect();
    let Some(seen) = parts_by_python(&multipart(&parts)) else {
        return;
    };
    let hexadecimal = |content: &[u8]| {
        content
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let expected: String = contents
        .iter()
        .map(|(name, content)| format!("text/cloud-config {name} {}\n", hexadecimal(content)))
        .collect();
    assert_eq!(seen, expected);
}
