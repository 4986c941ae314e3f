//! Every command, with what it can't do.

use testkit::{TestCloud, skip_unless};

use super::survived;

#[test]
fn every_command_refuses_nonsense() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let text = |output: &std::process::Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let overview = cloud.cli(&["--help"]);
    let commands: Vec<&str> = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|word| !word.starts_with("stratus"))
        .collect();
    assert!(commands.len() > 20, "{overview}");
    for command in &commands {
        let help = cloud.try_cli(&[command, "--help"]);
        assert_eq!(
            help.status.code(),
            Some(0),
            "{command} --help: {}",
            text(&help)
        );
        let refused = cloud.try_cli(&[command, "--no-such-option"]);
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{command} --no-such-option: {}",
            text(&refused)
        );
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            told.contains("Usage") && told.contains("no-such-option"),
            "{command}: {told}"
        );
        let refused = cloud.try_cli(&[command, "--format", "poem"]);
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{command} --format poem: {}",
            text(&refused)
        );
    }
    let nothing = "00000000-0000-7000-8000-000000000000";
    // Arguments, exit status, what the message must name.
    let table: &[(&[&str], i32, &str)] = &[
        (&["no-such-command"], 2, "no-such-command"),
        (&["run-instance"], 2, "image"),
        (&["run-instance", "no-such-image"], 255, "no-such-image"),
        (
            &["run-instance", "AAAAAAAAAAAAAAAAAAAAAAAAAAA"],
            255,
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        (&["run-instance", "-t", "no.type", "x"], 255, "no.type"),
        (&["run-instance", "-n", "many", "x"], 2, "many"),
        (&["run-instance", "--ram", "-5", "x"], 2, "-5"),
        (
            &[
                "run-instance",
                "-k",
                "/no/such/key.pub",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ],
            255,
            "/no/such/key.pub",
        ),
        (
            &["run-instance", "--context-file", "/no/such/file", "x"],
            2,
            "context file",
        ),
        (&["describe-instance", "abc"], 255, "abc"),
        (&["describe-instance", "4711"], 255, "4711"),
        (&["kill-instance"], 2, "vm-id"),
        (&["kill-instance", "4711"], 255, "4711"),
        (&["shutdown-instance", "-1"], 255, "'-1'"),
        (&["stop-instance", "4711"], 255, "4711"),
        (&["create-volume"], 1, "size"),
        (&["create-volume", "-s", "huge"], 1, "size"),
        (&["describe-volumes", "not-a-uuid"], 1, "not-a-uuid"),
        (&["delete-volume", nothing], 255, nothing),
        (&["attach-volume", "-i", "4711", nothing], 1, "4711"),
        (&["attach-volume", "-i", "4711", "x"], 1, "x"),
        (&["detach-volume", nothing], 255, nothing),
        (&["image", "import", "/no/such/file"], 255, "/no/such/file"),
        (&["image", "show", "nothing"], 255, "nothing"),
        (
            &["image", "import", "--sha1", "abc", "/etc/hostname"],
            2,
            "sha1",
        ),
        (
            &["user", "add", "../x", "--password-stdin"],
            1,
            "not a user name",
        ),
        (&["console", "4711"], 255, "4711"),
    ];
    let mut wrong = Vec::new();
    for (arguments, code, named) in table {
        let output = cloud.try_cli(arguments);
        let told = text(&output);
        if output.status.code() != Some(*code) || !told.contains(named) || told.contains("panicked")
        {
            wrong.push(format!(
                "{arguments:?}: {:?}, expected {code} and `{named}`: {told}",
                output.status.code()
            ));
        }
    }
    // Where there is no cloud, and where it does not know us.
    let nowhere = cloud.try_cli(&["describe-instance", "--endpoint", "https://127.0.0.1:1"]);
    if nowhere.status.code() != Some(255) || !text(&nowhere).contains("127.0.0.1:1") {
        wrong.push(format!("no cloud there: {nowhere:?}"));
    }
    let unknown = cloud.try_cli_as("admin", "guess", &["describe-instance"]);
    if unknown.status.code() != Some(255) || !text(&unknown).contains("Unauthorized") {
        wrong.push(format!("wrong password: {unknown:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    survived(&cloud);
}
