//! The letter that tells an author of the new image, with the draft to go on with.

use cimi::{
    Timestamp,
    resources::{Announcement, Image, Save},
};
use mail::{Attachment, Letter, LetterError};

/// To the author of a saved image. `base` is where this cloud is reached, `draft` the unsigned description.
///
/// # Errors
/// [`LetterError::Address`].
pub fn saved(
    save: &Save,
    image: &Image,
    identifier: &str,
    base: &str,
    announced: &Announcement,
    draft: &str,
) -> Result<Letter, LetterError> {
    let registered = match (
        &announced.marketplace,
        announced.valid_until,
        &announced.problem,
    ) {
        (Some(marketplace), Some(until), _) => {
            format!(
                "A temporary entry was registered at {marketplace}. It is valid until {}.",
                readable(until)
            )
        }
        (_, _, Some(problem)) => format!("It was not registered in a Marketplace: {problem}."),
        _ => "It was not registered in a Marketplace.".to_owned(),
    };
    let id = &image.id;
    let text = format!(
        "{}\n\nThe image you asked for was made.\n\n\
         Identifier: {identifier}\n\
         Image:      {base}/cimi/{id}\n\
         Content:    {base}/cimi/{id}/data\n\n\
         Only you can start machines from it:\n\n    stratus-run-instance {identifier}\n\n\
         {registered}\n\n\
         To publish it: edit the attached description (validity, title, locations), sign it and upload it:\n\n    \
         stratus-sign-metadata {identifier}.xml\n    stratus-upload-metadata {identifier}.xml\n\n\
         and let others fetch the content: stratus image export {identifier} writes it to a file that you can publish;\n\
         stratus image share --with NAME {identifier} lets one user of this cloud start it, stratus image update --public {identifier} all.\n",
        greeting(&save.author),
    );
    let letter = Letter::new(
        &save.author_email,
        &format!("New image created {identifier}"),
        text,
    )?;
    Ok(letter.attach(Attachment::new(
        format!("{identifier}.xml"),
        "application/rdf+xml",
        draft,
    )))
}

/// To the author of an image that could not be made.
///
/// # Errors
/// [`LetterError::Address`].
pub fn failed(save: &Save, vmid: u32, reason: &str, now: Timestamp) -> Result<Letter, LetterError> {
    let text = format!(
        "{}\n\nMachine {vmid} was shut down, but it could not be saved as an image ({now}):\n\n    {reason}\n\n\
         Its disk is kept by the cloud for a while: ask its administrator if you need it.\n",
        greeting(&save.author),
    );
    Letter::new(
        &save.author_email,
        &format!("Machine {vmid} was not saved"),
        text,
    )
}

/// A time to the minute.
fn readable(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('T') {
        Some((day, clock)) => format!("{day} {} UTC", clock.get(..5).unwrap_or(clock)),
        None => text,
    }
}

/// Longest name in a greeting, in characters.
const NAME: usize = 80;

/// Users write the name and choose whom the letter goes to, and it goes out under the address of the cloud: what may be more than a
/// name, such as a link, is left out.
fn greeting(author: &str) -> String {
    let mut name = author.trim().chars();
    let is_of_names = |c: char| c.is_alphanumeric() || " .,'’-()&".contains(c);
    // `Dr. J.R. Smith` and not `evil.example.net`.
    let is_host = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        let mut parts = word.rsplit('.');
        let last = parts.next().unwrap_or_default();
        last.chars().count() > 1 && parts.next().is_some()
    };
    let is_name = !author.trim().is_empty()
        && author.chars().count() <= NAME
        && name.all(is_of_names)
        && !author.split_whitespace().any(is_host);
    if is_name {
        format!("Dear {},", author.trim())
    } else {
        "Hello,".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_minute() {
        let time = Timestamp::from_millis(1_894_694_700_123);
        assert_eq!(readable(time), "2030-01-15 08:05 UTC");
    }

    #[test]
    fn only_names_are_greeted() {
        for name in [
            "Ann Example",
            "Dr. J.R. O'Neill-Smith",
            "Łukasz Żółw",
            "李雷",
        ] {
            assert_eq!(greeting(name), format!("Dear {name},"));
        }
        let long = "x".repeat(81);
        for text in [
            "",
            "Your account is closed: see https://evil.example.net",
            "www.example.net",
            "Open evil.example.net.",
            "Open (evil.example.net)",
            "Ann\nOpen this",
            "Ann <ann@example.org>",
            &long,
        ] {
            assert_eq!(greeting(text), "Hello,", "{text}");
        }
    }
}
