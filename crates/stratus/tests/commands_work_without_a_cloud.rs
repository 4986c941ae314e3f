//! Commands that need no cloud: links, manual pages, completions, configuration, hashes, context files.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use crate::support::{ended, ended_with_input, named_program, path, program};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

#[test]
fn every_command_has_a_link_and_a_manual_page() {
    let home = tempfile::tempdir().unwrap();
    let mut command = program(home.path());
    command.args(["links", "bin"]);
    ended(command).success();
    let mut command = program(home.path());
    command.args(["man", "man1"]);
    ended(command).success();
    let pages: Vec<_> = std::fs::read_dir(path(&home, "man1")).unwrap().collect();
    assert!(pages.len() > 30);
    assert!(
        std::fs::read_to_string(path(&home, "man1/stratus-run-instance.1"))
            .unwrap()
            .contains("persistent")
    );
    for name in [
        "run-instance",
        "describe-instance",
        "attach-volume",
        "copy-config",
        "prepare-context",
        "build-metadata",
        "sign-metadata",
        "validate-metadata",
        "upload-image",
        "upload-metadata",
        "deprecate-metadata",
        "hash-password",
    ] {
        let mut command = named_program(&path(&home, &format!("bin/stratus-{name}")), home.path());
        command.arg("--version");
        assert_eq!(
            ended(command).success(),
            format!("{}\n", env!("CARGO_PKG_VERSION"))
        );
        let mut command = named_program(&path(&home, &format!("bin/stratus-{name}")), home.path());
        command.arg("--help");
        let help = ended(command).success();
        assert!(
            help.starts_with(&format!("Usage: stratus-{name} [options]")),
            "{help}"
        );
    }
    let mut command = named_program(&path(&home, "bin/stratus-kill-instance"), home.path());
    command.arg("--nothing");
    let result = ended(command);
    assert!(
        result.status == 2 && result.stderr.contains("\n\nstratus-kill-instance: error: "),
        "{result:?}"
    );
}

#[test]
fn completions_are_made_for_the_usual_shells() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let mut command = program(home.path());
        command.args(["completions", shell]);
        assert!(ended(command).success().contains("describe-instance"));
        // Of a command's own link, too.
        let mut command = program(home.path());
        command.args(["completions", shell, "run-instance"]);
        let script = ended(command).success();
        assert!(
            script.contains("stratus-run-instance") && script.contains("persistent-disk"),
            "{script}"
        );
    }
}

#[test]
fn the_configuration_is_copied_but_never_overwritten_by_accident() {
    let home = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = program(home.path());
        command.arg("copy-config").args(words);
        ended(command)
    };
    let file = path(&home, ".stratuslab/stratuslab-user.cfg");
    assert_eq!(
        run(&["-v"]).success(),
        format!("wrote configuration file: {}\n", file.display())
    );
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions())
            & 0o777,
        0o600
    );
    std::fs::write(&file, "mine").unwrap();
    let result = run(&[]);
    assert_eq!(
        (result.status, result.stderr),
        (
            1,
            format!(
                "  [ERROR] won't overwrite file ({}); use --force to overwrite\n",
                file.display()
            )
        )
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    let mode = || {
        let permissions = std::fs::metadata(&file).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777
    };
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&file, permissions).unwrap();
    run(&["--force"]).success();
    assert_eq!(mode(), 0o600, "a password goes in");
    run(&["-c", "deep/er/x.cfg"]).success();
    assert!(
        std::fs::read_to_string(path(&home, "deep/er/x.cfg"))
            .unwrap()
            .contains("[sl-cloud]")
    );
}

#[test]
fn passwords_are_hashed() {
    let home = tempfile::tempdir().unwrap();
    let run = |input: &str| {
        let mut command = program(home.path());
        command.arg("hash-password");
        ended_with_input(command, input)
    };
    let result = run("joe\nsecret\nsecret\n").success();
    assert!(
        result.ends_with("MD5:5ebe2294ecd0e0f08eab7690d2a6ee69\nCRYPT:jo9SpNfPHbmRk\n"),
        "{result}"
    );
    let result = run("\n");
    assert!(
        result.status == 1 && result.stdout.is_empty() && result.stderr.contains("empty password"),
        "{result:?}"
    );
    let result = run("joe\nsecret\nSecret\n");
    assert!(
        result.status == 255 && result.stdout.ends_with("Error: Passwords did not match\n"),
        "{result:?}"
    );
}

#[test]
fn context_files_are_prepared() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(path(&home, "k.pub"), "Comment: c\nssh-ed25519 AAAA me\n").unwrap();
    std::fs::write(path(&home, "s.sh"), "#!/bin/sh\n").unwrap();
    let run = |words: &[&str]| {
        let mut command = program(home.path());
        command.arg("prepare-context").args(words);
        ended(command)
    };
    assert_eq!(run(&["ssh,k.pub", "x-shellscript,s.sh"]).success(), "");
    let text = std::fs::read_to_string(path(&home, "cloud-init.txt")).unwrap();
    let keys = STANDARD.encode("ssh-ed25519 AAAA me\n");
    assert!(text.starts_with(&format!("CONTEXT_METHOD=cloud-init\nCLOUD_INIT_AUTHORIZED_KEYS={keys}\nCLOUD_INIT_USER_DATA=H4sI")), "{text}");
    assert!(text.ends_with("\n\n"), "{text}");
    let result = run(&["nonsense"]);
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: invalid CloudInit mimetype pair: 'nonsense'\n")
    );
}

#[test]
fn a_token_for_no_type_is_not_asked_for() {
    for nothing in ["", " , ,"] {
        let home = tempfile::tempdir().unwrap();
        let mut command = program(home.path());
        command.args(["token", "create", "--only", nothing, "ci"]);
        command.args([
            "--endpoint",
            "https://127.0.0.1:1",
            "--username",
            "joe",
            "--password",
            "x",
        ]);
        let refused = ended(command);
        let told = format!("{refused:?}");
        assert!(
            refused.status != 0 && told.contains("--only names no type"),
            "{told}"
        );
    }
}
