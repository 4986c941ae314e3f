//! One request for each of several things: one that is refused does not keep the others from it.

use std::fmt::Display;

use crate::cloud::ApiError;
use crate::failure::Failure;

/// What came of it.
#[derive(Debug)]
pub struct Outcome<'a, N, T> {
    /// For which it was done, and what the cloud answered.
    pub done: Vec<(&'a N, T)>,
    refused: Vec<(&'a N, String)>,
    /// What kept the rest from being asked for.
    broken_off: Option<ApiError>,
    asked: usize,
}

/// Asks for each, in their order. A refusal is noted; without a network or a login it ends at once.
pub async fn each<'a, N, T>(
    named: &'a [N],
    mut ask: impl AsyncFnMut(&N) -> Result<T, ApiError>,
) -> Outcome<'a, N, T> {
    let mut outcome = Outcome {
        done: Vec::new(),
        refused: Vec::new(),
        broken_off: None,
        asked: named.len(),
    };
    for one in named {
        match ask(one).await {
            Ok(answer) => outcome.done.push((one, answer)),
            Err(ApiError::Refused {
                status, message, ..
            }) if status != 401 => {
                outcome.refused.push((one, message));
            }
            Err(error) => {
                outcome.broken_off = Some(error);
                break;
            }
        }
    }
    outcome
}

impl<'a, N: Display, T> Outcome<'a, N, T> {
    /// Something that was begun for one came to nothing.
    pub fn refuse(&mut self, one: &'a N, reason: String) {
        self.refused.push((one, reason));
    }

    /// Whether the cloud can't be asked any more.
    pub const fn is_broken_off(&self) -> bool {
        self.broken_off.is_some()
    }

    /// Success only if all of it was done. Otherwise what each of several was refused for, with its name, and for which it was
    /// done nevertheless.
    ///
    /// # Errors
    /// [`Failure::Work`]; what broke it off.
    pub fn result(self) -> Result<(), Failure> {
        let refused = match self.refused.as_slice() {
            [] => None,
            [(_, reason)] if self.asked == 1 => Some(reason.clone()),
            several => {
                let told = several.iter().map(|(one, why)| format!("{one}: {why}"));
                Some(told.collect::<Vec<_>>().join("; "))
            }
        };
        let failure = match (self.broken_off, refused) {
            (None, None) => return Ok(()),
            (None, Some(refused)) => Failure::Work(refused),
            (Some(error), None) => Failure::from(error),
            (Some(error), Some(refused)) => Failure::from(error).with_hint(refused),
        };
        if self.done.is_empty() {
            return Err(failure);
        }
        let done = self.done.iter().map(|(one, _)| one.to_string());
        let done = done.collect::<Vec<_>>().join(", ");
        Err(failure.with_hint(format!("It was done for: {done}.")))
    }
}
