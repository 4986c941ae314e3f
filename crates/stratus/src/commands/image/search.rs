//! `stratus image search`: what can be started, wherever the cloud would find it.

use serde_json::{Value, json};

use crate::cloud::{Api, Found, ImageView, Marketplace, Search, Source, text_of};
use crate::failure::{Failure, Result, WORK_FAILED};
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// How many of one Marketplace or catalogue can be asked for: pages of Marketplaces are no longer.
const LIMIT: usize = 1000;

/// Find images in Marketplaces and catalogues
///
/// Looks where the cloud looks: in all its Marketplaces and catalogues. Every word must occur somewhere in what is told about an
/// image, in any case. What the first column shows can be started: 'stratus run-instance IDENTIFIER'.
///
/// With --marketplace only that one is asked, and no cloud is needed.
///
/// Images that are deprecated or whose time is over, and those of this cloud that their owners don't share with you, are left out,
/// unless --all is given. What does not answer is reported, and
/// the others' images are shown; the exit status is then 255.
///
/// JSON: a list of {"name" (what run-instance takes), "source", "identifier", "title", "description", "os", "osVersion", "osArch",
/// "kind", "endorser", "created", "valid", "deprecated", "bytes", "locations"}; what is not known is null.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image search ubuntu 24.04
  stratus image search --os debian --endorser images@example.org
  stratus image search --marketplace https://marketplace.example.org --all grid")]
pub struct Arguments {
    /// Words that all occur; without any, everything
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// Of this operating system (a part of its name)
    #[arg(long, value_name = "NAME")]
    os: Option<String>,
    /// Of this architecture (a part of its name)
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Of this endorser (a part of the e-mail address); of Marketplaces only
    #[arg(long, value_name = "ADDRESS")]
    endorser: Option<String>,
    /// Also what is deprecated or past its end
    #[arg(short, long)]
    all: bool,
    /// At most so many of each Marketplace and catalogue, the newest [default: 50]
    #[arg(long, value_name = "N", default_value_t = 50, hide_default_value = true)]
    limit: usize,
    /// Only in the Marketplace at this address
    #[arg(long, value_name = "URL")]
    marketplace: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// An image, and where it was found.
struct Hit {
    /// What `run-instance` takes.
    name: String,
    source: String,
    found: Found,
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        if !(1..=LIMIT).contains(&self.limit) {
            return Err(Failure::Usage(format!("--limit is from 1 to {LIMIT}, not {}", self.limit)));
        }
        let session = Session::new(&self.common)?;
        let search = Search {
            words: self.words.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect(),
            os: self.os.clone(),
            arch: self.arch.clone(),
            endorser: self.endorser.clone(),
            all: self.all,
            limit: self.limit,
        };
        let (mut hits, mut failed, mut asked) = (Vec::new(), 0_usize, 1_usize);
        if let Some(url) = &self.marketplace {
            hits = in_marketplace(&session, &self.cloud, url, url, &search).await?;
        } else {
            let api = session.api(&self.cloud)?;
            let sources = Source::of(&api).await?;
            if sources.is_empty() {
                session.out.step("This cloud looks in no Marketplace and no catalogue; its administrator configures them. --marketplace URL asks one directly.");
            }
            asked = sources.len();
            let (this, session, api, search) = (&self, &session, &api, &search);
            // All at once: the slowest one is waited for, not one after the other.
            let asking = sources.iter().map(|source| async move {
                let found = if source.is_marketplace {
                    in_marketplace(session, &this.cloud, &source.name, &source.url, search).await
                } else {
                    in_catalogue(api, &source.name, search).await
                };
                (source, found)
            });
            for (Source { name, url, .. }, found) in futures::future::join_all(asking).await {
                match found {
                    Ok(found) => hits.extend(found),
                    Err(error) => {
                        failed += 1;
                        session.out.warning(format_args!("{name} ({url}): {error}"));
                    }
                }
            }
            if !self.all {
                leave_out_others(api, &mut hits).await?;
            }
        }
        if session.out.is_json() {
            session.out.json(&hits.iter().map(Hit::as_json).collect::<Vec<_>>())?;
        } else if hits.is_empty() {
            if failed < asked.max(1) {
                session.out.step("Nothing was found.");
            }
        } else {
            self.print(&session, &hits)?;
        }
        if failed > 0 { Err(Failure::Exit(WORK_FAILED)) } else { Ok(()) }
    }

    fn print(&self, session: &Session, hits: &[Hit]) -> Result {
        let now = jiff::Timestamp::now().to_string();
        let mut titles = vec!["IMAGE", "OS", "ARCH", "TITLE", "ENDORSER", "DATE", "WHERE"];
        if self.all {
            titles.push("STATE");
        }
        let rows = hits.iter().map(|Hit { name, source, found }| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let mut row = vec![
                name.clone(),
                format!("{} {}", text(&found.os), text(&found.os_version)).trim().to_owned(),
                text(&found.os_arch),
                found.title.clone().or_else(|| found.description.clone()).unwrap_or_default().chars().take(40).collect(),
                found.endorser.clone(),
                found.created.chars().take(10).collect(),
                source.clone(),
            ];
            if self.all {
                row.push(found.state(&now).to_owned());
            }
            row
        });
        session.out.line(table::render(&titles, rows))
    }
}

impl Found {
    /// As far as the Marketplace tells. Times of this form are in order as texts.
    fn state(&self, now: &str) -> &'static str {
        match (&self.deprecated, &self.valid) {
            (Some(_), _) => "deprecated",
            (None, Some(valid)) if valid.as_str() <= now => "expired",
            (None, Some(_)) => "valid",
            (None, None) => "",
        }
    }
}

/// Leaves out what only this cloud has, and whose owner doesn't share it with who asks: such as temporary entries of images that
/// others have saved.
async fn leave_out_others(api: &Api, hits: &mut Vec<Hit>) -> Result {
    let here = api.url("MachineImage/");
    if !hits.iter().any(|hit| hit.is_only_below(&here)) {
        return Ok(());
    }
    let seen = api.views::<ImageView>("MachineImage").await?;
    hits.retain(|hit| !hit.is_only_below(&here) || seen.iter().any(|image| image.identifier.as_deref() == Some(&hit.found.identifier)));
    Ok(())
}

impl Hit {
    /// Whether all places where it could be fetched have addresses that begin so.
    fn is_only_below(&self, folder: &str) -> bool {
        let locations = &self.found.locations;
        !locations.is_empty() && locations.iter().all(|location| location.starts_with(folder))
    }

    fn as_json(&self) -> Value {
        let mut value = serde_json::to_value(&self.found).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("name".to_owned(), json!(self.name));
            object.insert("source".to_owned(), json!(self.source));
            for unknown in ["identifier", "endorser", "created"] {
                if object.get(unknown).is_some_and(|value| value == "") {
                    object.insert(unknown.to_owned(), Value::Null);
                }
            }
        }
        value
    }
}

async fn in_marketplace(session: &Session, cloud: &Cloud, name: &str, url: &str, search: &Search) -> Result<Vec<Hit>> {
    let marketplace = Marketplace::at(session, url, cloud.ca_file.clone(), "--marketplace, or the addresses that the cloud names")?;
    let (found, count) = marketplace.search(search).await?;
    if count > found.len() as u64 {
        session.out.step(format_args!("{name}: the newest {} of {count}; --limit shows more, or add words.", found.len()));
    }
    let hit = |found: Found| Hit { name: found.identifier.clone(), source: name.to_owned(), found };
    Ok(found.into_iter().map(hit).collect())
}

/// Products of a catalogue, as far as they are what is looked for. An endorser is none of its.
async fn in_catalogue(api: &Api, name: &str, search: &Search) -> Result<Vec<Hit>> {
    if search.endorser.is_some() {
        return Ok(Vec::new());
    }
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let Value::Array(products) = api.get(&format!("/stratus/catalogue?name={encoded}")).await? else {
        return Err(Failure::Work("the cloud answered with something else than a list".to_owned()));
    };
    Ok(products.iter().filter(|product| is_wanted(product, search)).take(search.limit).map(|product| product_hit(name, product)).collect())
}

fn product_hit(catalogue: &str, product: &Value) -> Hit {
    let text = |name: &str| product.get(name).map(text_of).filter(|text| !text.is_empty());
    let name = text("name").unwrap_or_default();
    Hit {
        name: format!("{catalogue}:{name}"),
        source: catalogue.to_owned(),
        found: Found {
            title: text("title"),
            os_arch: text("architecture"),
            os_version: None,
            bytes: product.pointer("/versions/0/bytes").and_then(Value::as_u64),
            ..Found::default()
        },
    }
}

/// All words, in what a catalogue tells of a product.
fn is_wanted(product: &Value, search: &Search) -> bool {
    let text = |name: &str| product.get(name).map(text_of).unwrap_or_default();
    let aliases = product.get("aliases").and_then(Value::as_array).into_iter().flatten();
    let aliases: Vec<String> = aliases.map(text_of).collect();
    let version = product.pointer("/versions/0/version").map(text_of).unwrap_or_default();
    let names = format!("{} {} {}", text("name"), text("title"), aliases.join(" ")).to_lowercase();
    let all = format!("{names} {} {version}", text("architecture")).to_lowercase();
    search.words.iter().all(|word| all.contains(&word.to_lowercase()))
        && search.os.as_ref().is_none_or(|os| names.contains(&os.to_lowercase()))
        && search.arch.as_ref().is_none_or(|arch| text("architecture").to_lowercase().contains(&arch.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_found_by_all_that_is_told_of_them() {
        let product = json!({"name": "com.example:server:24.04:amd64", "title": "Example 24.04 LTS", "aliases": ["24.04", "noble"],
            "architecture": "amd64", "versions": [{"version": "20300110", "bytes": 7}]});
        let search = |words: &[&str], os: Option<&str>, arch: Option<&str>| Search {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            os: os.map(str::to_owned),
            arch: arch.map(str::to_owned),
            ..Search::default()
        };
        for (wanted, search) in [
            (true, search(&["NOBLE", "lts"], None, None)),
            (true, search(&["20300110"], Some("example"), Some("amd"))),
            (false, search(&["noble", "debian"], None, None)),
            (false, search(&[], Some("20300110"), None)),
            (false, search(&[], None, Some("arm64"))),
        ] {
            assert_eq!(is_wanted(&product, &search), wanted, "{search:?}");
        }
        let hit = product_hit("ubuntu", &product);
        assert_eq!(hit.name, "ubuntu:com.example:server:24.04:amd64");
        let json = hit.as_json();
        assert_eq!((&json["bytes"], &json["identifier"]), (&json!(7), &Value::Null));
    }

    #[test]
    fn states_are_told_by_what_is_known() {
        let found = |deprecated: Option<&str>, valid: Option<&str>| Found {
            deprecated: deprecated.map(str::to_owned),
            valid: valid.map(str::to_owned),
            ..Found::default()
        };
        let now = "2030-01-15T08:05:00.123Z";
        assert_eq!(found(Some(""), Some("2031-01-01T00:00:00Z")).state(now), "deprecated");
        assert_eq!(found(None, Some("2031-01-01T00:00:00Z")).state(now), "valid");
        assert_eq!(found(None, Some("2029-01-01T00:00:00Z")).state(now), "expired");
        assert_eq!(found(None, None).state(now), "");
    }
}
