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
    asked: usize,
}

/// Asks for each, in their order. A refusal is noted; without a network or a login it ends at once.
///
/// # Errors
/// [`ApiError`] that the next one would have, too.
pub async fn each<'a, N, T>(
    named: &'a [N],
    mut ask: impl AsyncFnMut(&N) -> Result<T, ApiError>,
) -> Result<Outcome<'a, N, T>, ApiError> {
    let mut outcome = Outcome {
        done: Vec::new(),
        refused: Vec::new(),
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
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

impl<'a, N: Display, T> Outcome<'a, N, T> {
    /// Something that was begun for one came to nothing.
    pub fn refuse(&mut self, one: &'a N, reason: String) {
        self.refused.push((one, reason));
    }

    /// Success only if nothing was refused; what each of several was refused for, with its name.
    ///
    /// # Errors
    /// [`Failure::Work`].
    pub fn result(self) -> Result<(), Failure> {
        match self.refused.as_slice() {
            [] => Ok(()),
            [(_, reason)] if self.asked == 1 => Err(Failure::Work(reason.clone())),
            several => {
                let told: Vec<String> = several
                    .iter()
                    .map(|(one, reason)| format!("{one}: {reason}"))
                    .collect();
                Err(Failure::Work(told.join("; ")))
            }
        }
    }
}
