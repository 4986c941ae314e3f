//! How users name machines: by number, or by the UUID of the document.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::cloud::{Api, ApiError, MachineView, is_uuid};
use crate::failure::{Failure, Result};

/// The number or UUID of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineNumber(String);

impl FromStr for MachineNumber {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let id = text.trim().trim_start_matches("Machine/");
        if is_uuid(id) {
            return Ok(Self(id.to_lowercase()));
        }
        match id.parse::<u64>() {
            Ok(number) => Ok(Self(number.to_string())),
            Err(_) => Err(Failure::Value(format!(
                "invalid literal for int() with base 10: '{text}'"
            ))),
        }
    }
}

impl fmt::Display for MachineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MachineNumber {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_uuids() {
        assert_eq!("007".parse::<MachineNumber>().unwrap().path(), "Machine/7");
        let uuid = "08f59022-463a-4662-8136-C0CEE5517F17";
        assert_eq!(
            format!("Machine/{uuid}")
                .parse::<MachineNumber>()
                .unwrap()
                .path(),
            format!("Machine/{}", uuid.to_lowercase())
        );
        for wrong in ["abc", "", "-1", "1/../2", "7?x"] {
            assert_eq!(
                wrong.parse::<MachineNumber>().unwrap_err().to_string(),
                format!("invalid literal for int() with base 10: '{wrong}'")
            );
        }
    }
}
