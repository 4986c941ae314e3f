//! The administrator that a new cloud gets, so that there is somebody who can make the other users.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use accounts::{Identity, password};
use anyhow::Context as _;
use cimi::{common::ADMIN_ROLE, model::Kind};
use cloud::{Caller, Cloud, CloudError, OpContext};
use serde_json::json;

use crate::instance::{make_dir, remove, write_atomically};

const NAME: &str = "admin";

/// Makes `User/admin` if there is no user at all, and keeps the password in `STATE/secrets/admin-password`. It is shown
/// once, to whoever started this in a terminal; no log has it.
///
/// # Errors
/// If either can't be written.
pub async fn ensure_administrator(cloud: &Cloud, state: &Path) -> anyhow::Result<()> {
    if !cloud.documents().users.is_empty() {
        return Ok(());
    }
    let folder = state.join("secrets");
    make_dir(&folder, 0o700)?;
    let file = folder.join("admin-password");
    // The file first: a daemon that is killed in between finds it here and makes the user with it, so that there is
    // never a user whose password nobody knows.
    let password = match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => {
            let password = password::generate();
            write_atomically(&file, format!("{password}\n").as_bytes(), 0o600)?;
            password
        }
    };
    let context = context();
    let body = json!({"username": NAME, "password": password, "roles": [ADMIN_ROLE], "description": "The first administrator"});
    let serde_json::Value::Object(body) = body else {
        anyhow::bail!("the first user's document is no object");
    };
    match cloud.create(&context, Kind::User, body).await {
        // Another entry was first: its password counts.
        Err(CloudError::Conflict(_)) => return remove(&file),
        made => made.context("making User/admin")?,
    };
    tracing::info!(
        "User/{NAME} entry created; its initial password is in {}",
        file.display()
    );
    let mut terminal = std::io::stdout();
    if terminal.is_terminal() {
        writeln!(terminal, "The initial password of {NAME} is {password}")
            .context("standard output")?;
    }
    Ok(())
}

/// As whom it acts.
pub fn context() -> OpContext {
    let identity = Identity {
        user: "stratusd".into(),
        roles: vec![ADMIN_ROLE.to_owned()],
        token: None,
        session: None,
        method: accounts::Method::default(),
        is_limited: false,
        generation: None,
    };
    let caller = Caller::User(Arc::new(identity));
    OpContext::new(caller, "first-start".into(), Duration::from_secs(60))
}
