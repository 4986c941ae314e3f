//! How users name machines: by number, by the UUID of the document, or by a name that only one machine has.

use std::fmt;

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::cloud::{Api, ApiError, MachineView, is_uuid};
use crate::failure::{Failure, Result};

/// The number or UUID of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineNumber(String);

impl fmt::Display for MachineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MachineNumber {
    /// Reads a number or a UUID; nothing if it is neither, and so can only be a name.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let id = text.trim().trim_start_matches("Machine/");
        if is_uuid(id) {
            return Some(Self(id.to_lowercase()));
        }
        id.parse::<u64>()
            .ok()
            .map(|number| Self(number.to_string()))
    }

    /// Of a machine that the cloud showed.
    #[must_use]
    pub fn of(machine: &MachineView) -> Self {
        Self(machine.shown_id())
    }

    /// The machine's path below the CloudEntryPoint.
    #[must_use]
    pub fn path(&self) -> String {
        format!("Machine/{}", self.0)
    }

    /// The machine's document; for a machine that is gone its record.
    ///
    /// # Errors
    /// [`ApiError`]; for a machine that never was, what the cloud says about the machine.
    pub async fn document(&self, api: &Api) -> Result<Value, ApiError> {
        match api.get(&self.path()).await {
            Err(error) if error.is_status(404) && !is_uuid(&self.0) => api
                .get(&format!("MachineRecord/{}", self.0))
                .await
                .map_err(|_| error),
            result => result,
        }
    }

    /// Whether it was there once, and is gone: its record says so.
    pub async fn is_gone(&self, api: &Api) -> bool {
        let record = format!("MachineRecord/{}", self.0);
        !is_uuid(&self.0) && api.get(&record).await.is_ok()
    }

    /// The machine; for one that is gone what its record says.
    ///
    /// # Errors
    /// As [`document`](Self::document).
    pub async fn look_up(&self, api: &Api) -> Result<MachineView, ApiError> {
        let document = self.document(api).await?;
        let mut machine: MachineView = api.viewed(&self.path(), document)?;
        if machine.vmid.is_none() {
            machine.vmid = self.0.parse().ok();
        }
        Ok(machine)
    }
}

/// The machines by what users call them. The cloud is asked for their names once, and only if somebody goes by one.
#[derive(Debug)]
pub struct MachineNames<'a> {
    api: &'a Api,
    shown: OnceCell<Vec<MachineView>>,
}

impl<'a> MachineNames<'a> {
    /// Of the machines of a cloud.
    #[must_use]
    pub const fn of(api: &'a Api) -> Self {
        Self {
            api,
            shown: OnceCell::const_new(),
        }
    }

    /// The machine that a user named.
    ///
    /// # Errors
    /// [`Failure::Work`] for a name that no machine shown to the user has, or several; [`ApiError`].
    pub async fn find(&self, text: &str) -> Result<MachineNumber> {
        if let Some(number) = MachineNumber::read(text) {
            return Ok(number);
        }
        let shown = self
            .shown
            .get_or_try_init(async || self.api.views("Machine").await);
        one_of_name(shown.await?, text)
    }
}

/// The machine that a user named.
///
/// # Errors
/// As [`MachineNames::find`].
pub async fn machine_named(api: &Api, text: &str) -> Result<MachineNumber> {
    MachineNames::of(api).find(text).await
}

/// The machines that a user named, if all of them are there.
///
/// # Errors
/// As [`MachineNames::find`].
pub async fn machines_named(api: &Api, texts: &[String]) -> Result<Vec<MachineNumber>> {
    let names = MachineNames::of(api);
    let mut machines = Vec::with_capacity(texts.len());
    for text in texts {
        machines.push(names.find(text).await?);
    }
    Ok(machines)
}

fn one_of_name(shown: &[MachineView], name: &str) -> Result<MachineNumber> {
    let of_name: Vec<&MachineView> = shown
        .iter()
        .filter(|machine| machine.name.as_deref() == Some(name))
        .collect();
    match of_name.as_slice() {
        [] => Err(Failure::Work(format!(
            "there is no machine with the number or the name '{name}'"
        ))
        .with_hint("stratus describe-instance shows the machines that are there.")),
        [machine] => Ok(MachineNumber::of(machine)),
        several => {
            let ids: Vec<String> = several.iter().map(|machine| machine.shown_id()).collect();
            Err(Failure::Work(format!(
                "{} machines have the name '{name}'; take one of {}",
                ids.len(),
                ids.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_uuids() {
        let path = |text: &str| MachineNumber::read(text).map(|number| number.path());
        assert_eq!(path("007").as_deref(), Some("Machine/7"));
        let uuid = "08f59022-463a-4662-8136-C0CEE5517F17";
        assert_eq!(
            path(&format!("Machine/{uuid}")),
            Some(format!("Machine/{}", uuid.to_lowercase()))
        );
        for name in ["abc", "", "-1", "1/../2", "7?x"] {
            assert_eq!(path(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_means_the_only_machine_that_has_it() {
        let machine = |vmid, name: &str| MachineView {
            vmid: Some(vmid),
            name: Some(name.to_owned()),
            ..MachineView::default()
        };
        let shown = [machine(3, "web"), machine(4, "web"), machine(5, "db")];
        assert_eq!(one_of_name(&shown, "db").unwrap().path(), "Machine/5");
        for (name, message) in [
            ("web", "2 machines have the name 'web'; take one of 3, 4"),
            ("", "there is no machine with the number or the name ''"),
        ] {
            assert_eq!(one_of_name(&shown, name).unwrap_err().to_string(), message);
        }
    }
}
