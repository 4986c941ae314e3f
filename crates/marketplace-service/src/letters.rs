//! What is written to endorsers and to the administrator.

use mail::{Letter, LetterError};

use std::sync::Arc;

use marketplace::UtcTime;
use marketplace::catalogue::Record;

use crate::{Described, Settings, stored::Waiting};

/// As StratusLab's Marketplace writes it, so that filters of endorsers go on working.
const SUBJECT: &str = "StratusLab Marketplace Message";

/// Longest title in a letter.
const TITLE: usize = 80;

/// What `waiting` is about, in a sentence. Nothing that the uploader was free to write is in it: anybody can upload in anybody's
/// name, and the letter goes out under the address of this Marketplace.
fn about(waiting: &Waiting) -> String {
    let does = if waiting.is_deprecation {
        "deprecating"
    } else {
        "for"
    };
    format!(
        "metadata {does} the image\n\n    {}\n\nendorsed at {} by {}",
        waiting.identifier, waiting.created, waiting.email
    )
}

/// A title as one short line in quotes, whatever is in it.
fn quoted(title: &str) -> String {
    let is_shown = |character: &char| !character.is_control() && !is_turning(*character);
    let spaced = title
        .chars()
        .map(|one| if one.is_whitespace() { ' ' } else { one });
    let shown: String = spaced.filter(is_shown).take(TITLE).collect();
    let shown = shown.replace('"', "'");
    format!("\"{}\"", shown.trim())
}

/// What makes a text be read in another direction, or is not seen.
fn is_turning(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// To the endorser: is it yours?
pub(crate) fn confirmation(
    settings: &Settings,
    waiting: &Waiting,
    described: &Described,
    link: &str,
) -> Result<Letter, LetterError> {
    let mut told = format!(
        "It was signed by a certificate with the SHA-256 fingerprint\n\n    {}\n\n",
        described.fingerprint
    );
    if described.is_strange {
        told.push_str(
            "ATTENTION: This certificate has not been used here for this address; what you have published here before\n\
             was signed by another one. Confirm only if the new one is yours.\n\n",
        );
    }
    if waiting.is_deprecation {
        told.push_str("It withdraws the image: nobody shall use it any more.\n\n");
    }
    if described.is_expired {
        told.push_str(
            "Its end is over already: the entry appears only among what has expired.\n\n",
        );
    }
    let action = |what: &str| format!("{}action/{link}/{what}/", settings.url);
    let text = format!(
        "Somebody, probably you, has uploaded to {title} ({url})\n{about}.\n\n{told}\
         If that was you, open this page, which shows what it says, and confirm; then the entry appears:\n\n    {confirm}\n\n\
         If it was a mistake, it can be withdrawn:\n\n    {abort}\n\n\
         If you did not upload it, please say so to the administrators:\n\n    {abuse}\n\n\
         Without an answer it is forgotten on {until}. The links work once.\n",
        title = settings.title,
        url = settings.url,
        about = about(waiting),
        confirm = action("confirm"),
        abort = action("abort"),
        abuse = action("abuse"),
        until = waiting.until,
    );
    Letter::new(&waiting.email, SUBJECT, text)
}

/// To an endorser who wants to sign in, or in whose name somebody does.
pub(crate) fn sign_in(
    settings: &Settings,
    email: &str,
    source: &str,
    link: &str,
    until: UtcTime,
) -> Result<Letter, LetterError> {
    let text = format!(
        "Somebody, probably you, wants to sign in to {title} ({url})\nas {email}, from {source}.\n\n\
         If that is you, open this page and press its button:\n\n    {url}action/{link}/sign-in/\n\n\
         It works once, until {until}. If it isn't you, do nothing: without this letter nobody gets in.\n",
        title = settings.title,
        url = settings.url,
    );
    Letter::new(email, SUBJECT, text)
}

/// Entries named in a letter.
const NAMED: usize = 200;

fn named(settings: &Settings, records: &[Arc<Record>], query: &str) -> String {
    let mut text = String::new();
    for record in records.iter().take(NAMED) {
        let title = record
            .title
            .as_deref()
            .map_or_else(|| "without a title".to_owned(), quoted);
        let valid = record
            .valid
            .map(|valid| valid.to_string())
            .unwrap_or_default();
        text.push_str(&format!(
            "    {} ({title})\n    valid until {valid}\n    {}metadata/{}{query}\n\n",
            record.identifier,
            settings.url,
            record.path(),
        ));
    }
    let more = records.len().saturating_sub(NAMED);
    if more > 0 {
        text.push_str(&format!("    and {more} more\n\n"));
    }
    text
}

/// To an endorser: what is here.
pub(crate) fn current(
    settings: &Settings,
    email: &str,
    records: &[Arc<Record>],
) -> Result<Letter, LetterError> {
    let text = format!(
        "These images in {title} ({url})\nare endorsed by you and valid. Deprecate what should not be used any more.\n\n{list}\
         Who doesn't want these letters signs in and switches them off: {url}account\n",
        title = settings.title,
        url = settings.url,
        list = named(settings, records, ""),
    );
    Letter::new(email, SUBJECT, text)
}

/// To an endorser: what ends soon.
pub(crate) fn ending(
    settings: &Settings,
    email: &str,
    records: &[Arc<Record>],
) -> Result<Letter, LetterError> {
    let text = format!(
        "Within three days these images in {title} ({url})\nare not valid any more, and clouds refuse to start them. To go on, take the description, \
         give it a later end, sign it and upload it.\n\n{list}\
         Who doesn't want these letters signs in and switches them off: {url}account\n",
        title = settings.title,
        url = settings.url,
        list = named(settings, records, "?media=xml"),
    );
    Letter::new(email, SUBJECT, text)
}

/// To the administrator: somebody says that it isn't theirs.
pub(crate) fn abuse(
    settings: &Settings,
    administrator: &str,
    waiting: &Waiting,
) -> Result<Letter, LetterError> {
    let text = format!(
        "The owner of the address {email} says that an upload to {title} ({url})\nis not theirs: {about}.\n\n\
         It came from {source}. It can't be confirmed any more and is forgotten on {until}.\n",
        email = waiting.email,
        title = settings.title,
        url = settings.url,
        about = about(waiting),
        source = waiting.source,
        until = waiting.until,
    );
    Letter::new(administrator, SUBJECT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_short_line() {
        assert_eq!(quoted("Debian 12"), "\"Debian 12\"");
        let text = format!("a\r\n\n\u{202e}b\u{7} \"c\"{}", "x".repeat(1000));
        let shown = quoted(&text);
        assert!(shown.starts_with("\"a   b 'c'xx"), "{shown}");
        assert!(shown.chars().count() <= TITLE + 2, "{shown}");
    }
}
