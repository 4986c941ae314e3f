//! Which names an authority may sign: the files `HASH.signing_policy` of Globus, as all authorities of grids come with one.
//! An authority without a file may sign what those above it may; without a file above it, any name.

use cimi::dn::DistinguishedName;

/// What authorities may sign.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies(Vec<Policy>);

#[derive(Clone, Debug)]
struct Policy {
    /// The authority's name, in its canonical form.
    authority: String,
    /// Names in the form with slashes; `*` is any text.
    patterns: Vec<String>,
}

impl Policies {
    /// Adds a file.
    pub(crate) fn add(&mut self, content: &str) -> Result<(), String> {
        let mut authority = None;
        for line in content.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            match word {
                "access_id_CA" => {
                    let name = quoted(rest, '\'').next().unwrap_or_default();
                    let name = DistinguishedName::parse(name)
                        .ok_or_else(|| format!("`{name}` is no name of an authority"))?;
                    authority = Some(name.canonical());
                }
                "cond_subjects" => {
                    let authority = authority
                        .clone()
                        .ok_or("cond_subjects comes before any access_id_CA")?;
                    // '"/C=EU/*" "/C=FR/*"', or with the quotes the other way round.
                    let text = quoted(rest, '\'').next().unwrap_or(rest);
                    let patterns = quoted(text, '"').map(str::to_owned).collect();
                    self.0.push(Policy {
                        authority,
                        patterns,
                    });
                }
                "pos_rights" | "neg_rights" => {}
                other => return Err(format!("`{other}` is not understood")),
            }
        }
        Ok(())
    }

    /// Whether a name may be signed by the first of these authorities, each of which is signed by the next. One without a
    /// file is bound by that of the next above that has one: an authority can't give what it doesn't have.
    pub(crate) fn allow(
        &self,
        authorities: &[DistinguishedName],
        subject: &DistinguishedName,
    ) -> bool {
        let subject = subject.slashed();
        let bounds = authorities.iter().find_map(|authority| {
            let authority = authority.canonical();
            let mut own = self
                .0
                .iter()
                .filter(move |policy| policy.authority == authority)
                .peekable();
            own.peek().is_some().then_some(own)
        });
        bounds.is_none_or(|mut own| {
            own.any(|policy| {
                policy
                    .patterns
                    .iter()
                    .any(|pattern| matches(pattern, &subject))
            })
        })
    }
}

/// What is between pairs of quotes.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).skip(1).step_by(2)
}

/// Whether a text is of the pattern, in which `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# of a grid\naccess_id_CA   X509  '/C=EU/O=Example Org/CN=Test CA'\n\
        pos_rights     globus CA:sign\ncond_subjects  globus '\"/C=EU/O=Example Org/*\" \"/DC=org/*/CN=host/*\"'\n";

    #[test]
    fn authorities_sign_their_own_names() {
        let mut policies = Policies::default();
        policies.add(FILE).unwrap();
        let name = |text| DistinguishedName::parse(text).unwrap();
        let authority = name("CN=Test CA,O=Example Org,C=EU");
        for (subject, may) in [
            ("/C=EU/O=Example Org/CN=Alice", true),
            ("/DC=org/DC=x/CN=host/www", true),
            ("/DC=org/CN=host/www", false),
            ("/C=EU/O=Other/CN=Alice", false),
            ("/C=EU/O=Example Orga/CN=Alice", false),
        ] {
            let subject = name(subject);
            let alone = std::slice::from_ref(&authority);
            assert_eq!(policies.allow(alone, &subject), may, "{subject}");
            // Nor more by an authority below that has no file.
            let below = [name("CN=Sub,O=Example Org,C=EU"), authority.clone()];
            assert_eq!(policies.allow(&below, &subject), may, "{subject}");
        }
        assert!(policies.allow(&[name("CN=Another")], &name("CN=Anybody")));
        // One with a file of its own is what that says.
        let own = "access_id_CA X509 '/CN=Own'\ncond_subjects globus '\"/C=FR/*\"'\n";
        policies.add(own).unwrap();
        let path = [name("CN=Own"), authority];
        assert!(policies.allow(&path, &name("/C=FR/CN=Alice")));
        assert!(!policies.allow(&path, &name("/C=EU/O=Example Org/CN=Alice")));
        for wrong in [
            "cond_subjects globus '\"*\"'",
            "access_id_CA X509 'nobody'",
            "allow all",
        ] {
            policies.add(wrong).unwrap_err();
        }
    }

    #[test]
    fn stars_are_any_text() {
        for (pattern, text, is) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }
}
