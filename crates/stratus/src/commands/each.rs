//! One request for each of several things that a command names: one that is refused, or that nobody finds, does not keep the
//! others from it.

use crate::failure::{Failure, Result};

/// What came of it.
#[derive(Debug)]
pub struct Outcome<'a, T> {
    /// For which it was done, as they were named, and what came of it.
    pub done: Vec<(&'a str, T)>,
    refused: Vec<(&'a str, Failure)>,
    /// What kept the rest from being asked for.
    broken_off: Option<Failure>,
    asked: usize,
}

/// Asks for each, in their order. What is wrong with one is noted; without a network or a login it ends at once.
pub async fn each<'a, T>(
    named: &'a [String],
    mut ask: impl AsyncFnMut(&'a str) -> Result<T>,
) -> Outcome<'a, T> {
    let mut outcome = Outcome {
        done: Vec::new(),
        refused: Vec::new(),
        broken_off: None,
        asked: named.len(),
    };
    for one in named {
        let answer = ask(one).await;
        outcome.note(one, answer);
        if outcome.is_broken_off() {
            break;
        }
    }
    outcome
}

impl<'a, T> Outcome<'a, T> {
    fn note(&mut self, one: &'a str, answer: Result<T>) {
        match answer {
            Ok(answer) => self.done.push((one, answer)),
            Err(failure) if failure.is_of_one() => self.refused.push((one, failure)),
            Err(failure) => self.broken_off = Some(failure),
        }
    }

    /// Goes on with each for which the first step was done, such as waiting for its end: what doesn't come to one is refused.
    pub async fn then(&mut self, mut go_on: impl AsyncFnMut(&'a str, &T) -> Result) {
        if self.is_broken_off() {
            return;
        }
        for (one, answer) in std::mem::take(&mut self.done) {
            let went_on = go_on(one, &answer).await;
            self.note(one, went_on.map(|()| answer));
            if self.is_broken_off() {
                break;
            }
        }
    }

    /// Whether the cloud can't be asked any more.
    const fn is_broken_off(&self) -> bool {
        self.broken_off.is_some()
    }

    /// For which it was done, as they were named.
    pub fn names(&self) -> Vec<&'a str> {
        self.done.iter().map(|(one, _)| *one).collect()
    }

    /// As [`result`](Self::result), where those that were found were shown: that needs no word.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn shown(mut self) -> Result {
        self.done.clear();
        self.result()
    }

    /// Success only if all of it was done. Otherwise what each of several was refused for, with its name, and for which it was
    /// done nevertheless.
    ///
    /// # Errors
    /// What was refused; what broke it off.
    pub fn result(self) -> Result {
        let done = self.names().join(", ");
        let refused = together(self.refused, self.asked);
        let failure = match (self.broken_off, refused) {
            (None, None) => return Ok(()),
            (None, Some(refused)) => refused,
            (Some(failure), None) => failure,
            (Some(failure), Some(refused)) => failure.with_hint(refused.to_string()),
        };
        if done.is_empty() {
            return Err(failure);
        }
        Err(failure.with_hint(format!("It was done for: {done}.")))
    }
}

/// The refusals as one. Checks that the command makes itself stay such where nothing was done.
fn together(mut refused: Vec<(&str, Failure)>, asked: usize) -> Option<Failure> {
    if asked == 1 {
        return refused.pop().map(|(_, failure)| failure);
    }
    let (mut texts, mut hints) = (Vec::new(), Vec::<String>::new());
    let mut is_checked = refused.len() == asked;
    for (one, failure) in refused {
        let (failure, hint) = failure.parts();
        is_checked &= matches!(failure, Failure::Check(_));
        texts.push(format!("{one}: {failure}"));
        // Much is to be done about several in the same way.
        hints.extend(hint.filter(|hint| !hints.contains(hint)));
    }
    let text = texts.join("; ");
    let failure = match (text.is_empty(), is_checked) {
        (true, _) => return None,
        (false, true) => Failure::Check(text),
        (false, false) => Failure::Work(text),
    };
    Some(hints.into_iter().fold(failure, Failure::with_hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_are_refused_for_is_told_with_their_names() {
        let missing = || Failure::Work("it is not there".to_owned()).with_hint("look at the list");
        let check = || Failure::Check("no UUID".to_owned());
        let one = together(vec![("a", missing())], 1).expect("a failure");
        assert_eq!(one.to_string(), "it is not there");
        let both = together(vec![("a", missing()), ("b", missing())], 3).expect("a failure");
        assert_eq!(both.exit_status(), crate::failure::WORK_FAILED);
        let (both, hint) = both.parts();
        assert_eq!(both.to_string(), "a: it is not there; b: it is not there");
        assert_eq!(hint.as_deref(), Some("look at the list"), "said once");
        let checks = together(vec![("a", check()), ("b", check())], 2).expect("a failure");
        assert_eq!(checks.exit_status(), 1);
        let some = together(vec![("a", check())], 2).expect("a failure");
        assert_eq!(some.exit_status(), crate::failure::WORK_FAILED);
        let mixed = together(vec![("a", check()), ("b", missing())], 2).expect("a failure");
        assert_eq!(mixed.exit_status(), crate::failure::WORK_FAILED);
        assert!(together(Vec::new(), 2).is_none());
    }
}
