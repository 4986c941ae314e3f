//! Images by their names: those that the cloud has, and those that it fetches when somebody wants them.

use marketplace::metadata::is_email;
use serde_json::json;

use super::volume_id::volume_uuid;
use crate::cloud::{Accepted, Api, ApiError, ImageView, is_image_identifier, is_uuid};
use crate::failure::{Failure, Result};
use crate::session::Session;

/// What a machine boots from.
pub enum BootsFrom {
    /// An image, of which it gets a disk of its own; how a template refers to it.
    Image(String),
    /// A volume itself; its UUID.
    Volume(String),
}

/// What a user named for a machine to boot from: what the cloud does not have is asked for now.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError); [`Failure::Work`] for what names nothing to boot from.
pub async fn bootable(session: &Session, api: &Api, text: &str) -> Result<BootsFrom> {
    let text = text.trim();
    let located = text
        .strip_prefix("pdisk:")
        .and_then(|rest| rest.rsplit([':', '/']).next());
    let uuid = volume_uuid(located.unwrap_or(text));
    match uuid {
        Some(uuid) if !(is_uuid(text) && is_image(api, text).await?) => Ok(BootsFrom::Volume(uuid)),
        _ => Ok(BootsFrom::Image(startable(session, api, text).await?)),
    }
}

/// Whether an image has this UUID, as far as one may see.
async fn is_image(api: &Api, uuid: &str) -> Result<bool> {
    match api
        .get(&format!("MachineImage/{}", uuid.to_lowercase()))
        .await
    {
        Ok(_) => Ok(true),
        Err(ApiError::Refused {
            status: 403 | 404, ..
        }) => Ok(false),
        // Whatever it is, it is not what the name means.
        Err(error) => Err(error.into()),
    }
}

/// How a machine's template refers to the image that a user named: what the cloud does not have is asked for now. Of a volume
/// an image is made.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError); [`Failure::Work`] for what names no image.
pub async fn startable(session: &Session, api: &Api, text: &str) -> Result<String> {
    let text = text.trim();
    if is_image_identifier(text) {
        // The cloud asks its Marketplaces for what it doesn't have.
        return Ok(format!("MachineImage/{text}"));
    }
    if let Some(local) = text.strip_prefix("MachineImage/") {
        return Ok(format!("MachineImage/{local}"));
    }
    if is_uuid(text) && is_image(api, text).await? {
        return Ok(format!("MachineImage/{}", text.to_lowercase()));
    }
    if is_list(text) {
        return Err(
            Failure::Work(format!("'{text}' is a list of a Marketplace, and no image")).with_hint(
                "Take the identifier of one of its images; stratus image search finds them.",
            ),
        );
    }
    if let Some(location) = location(text) {
        return on_demand(session, api, &location).await;
    }
    if let Some(id) = image_named(api, text, Use::Start).await? {
        return Ok(id);
    }
    if is_tag(text) {
        return on_demand(session, api, text).await;
    }
    if let Some((name, product)) = text.split_once(':') {
        if product.starts_with("//") {
            return Err(Failure::Work(format!(
                "there is no image '{text}': images are fetched by http and https, not by {name}"
            )));
        }
        if !name.is_empty() && !product.is_empty() {
            return on_demand(session, api, &format!("catalogue:{text}")).await;
        }
    }
    let failure = Failure::Work(format!("there is no image '{text}'"));
    if let Some(hint) = nearly_identifier(text) {
        return Err(failure.with_hint(hint));
    }
    Err(failure.with_hint(match text {
        "ssh" | "running" => format!("To wait for it, write --wait={text} with '='; stratus image list shows what images there are."),
        _ => "stratus image list shows what there is, stratus image catalogue what can be fetched; stratus image import brings others.".to_owned(),
    }))
}

/// What is wrong with a text that was meant for an identifier, as its length and its characters tell.
#[must_use]
pub fn nearly_identifier(text: &str) -> Option<String> {
    let is_near = (24..=30).contains(&text.chars().count())
        && text
            .bytes()
            .filter(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            .count()
            + 1
            >= text.len()
        && text.bytes().any(|byte| byte.is_ascii_uppercase())
        && text
            .bytes()
            .any(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !text.contains([' ', '/', ':', '@', '.']);
    let wrong = text
        .parse::<marketplace::ImageIdentifier>()
        .err()
        .filter(|_| is_near)?;
    Some(format!("If it was to be an identifier: {wrong}."))
}

/// A refusal of what a user named as an image: the cloud tells it of the place in the request, the user of the argument.
#[must_use]
pub fn of_argument(failure: Failure, argument: &str) -> Failure {
    let (failure, hint) = failure.parts();
    let failure = match failure {
        Failure::Work(text) => Failure::Work(
            PLACES
                .iter()
                .fold(text, |text, place| text.replace(place, argument)),
        ),
        other => other,
    };
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// Where images stand in requests.
const PLACES: [&str; 4] = [
    "machineTemplate.machineImage.href",
    "machineTemplate.machineImage",
    "imageLocation.href",
    "imageLocation",
];

/// The location of an image that is told by its form: a URL, an entry, or a volume.
fn location(text: &str) -> Option<String> {
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    if is_url
        || ["marketplace:", "catalogue:", "pdisk:", "Volume/"]
            .iter()
            .any(|form| text.starts_with(form))
    {
        return Some(text.to_owned());
    }
    is_uuid(text).then(|| format!("Volume/{}", text.to_lowercase()))
}

/// Whether a text is the address of a Marketplace's list, whatever it is asked for.
fn is_list(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    (text.starts_with("http://") || text.starts_with("https://"))
        && path.trim_end_matches('/').ends_with("/metadata")
}

/// Whether a text is `TAG@EMAIL`: the tag that an endorser gave an image.
fn is_tag(text: &str) -> bool {
    let tag = text.rmatch_indices('@').nth(1);
    tag.is_some_and(|(at, _)| at > 0 && text.get(at + 1..).is_some_and(is_email))
}

/// Asks for an image that all who want it share; its path.
async fn on_demand(session: &Session, api: &Api, location: &str) -> Result<String> {
    let accepted = wanted(api, location).await?;
    let image: ImageView = api.viewed("MachineImage", accepted.body)?;
    tell_identifier(session, location, &image);
    // Nothing is in the way of one that is there: it is told why it may not be the newest.
    if image.state.as_deref() == Some("AVAILABLE")
        && let Some(why) = &image.reason
    {
        session.out.warning(why);
    }
    if accepted.status != 200 {
        session
            .out
            .detail(format_args!("the cloud fetches the image: {}", image.id));
    }
    Ok(image.id)
}

/// A tag and a short URL lead to another image tomorrow: so it is told to which they lead now.
fn tell_identifier(session: &Session, asked: &str, image: &ImageView) {
    let leads_on = is_tag(asked) || asked.starts_with("http://") || asked.starts_with("https://");
    if let Some(identifier) = &image.identifier
        && leads_on
        && !asked.contains(identifier)
    {
        session
            .out
            .step(format_args!("{asked} is the image {identifier}"));
    }
}

/// The cloud's answer to the wish for an image on demand.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError).
pub async fn wanted(api: &Api, location: &str) -> Result<Accepted> {
    let body = json!({ "imageLocation": { "href": location }, "onDemand": true });
    api.post("MachineImage", &body)
        .await
        .map_err(|error| of_argument(error.into(), as_written(location)))
}

/// The word by which a user means a location: [`location_of`], backwards.
fn as_written(location: &str) -> &str {
    ["marketplace:", "catalogue:"]
        .iter()
        .find_map(|form| location.strip_prefix(form))
        .unwrap_or(location)
}

/// The location that a user's word stands for, if it is none of an image that the cloud has.
#[must_use]
pub fn location_of(text: &str) -> Option<String> {
    let text = text.trim();
    if is_image_identifier(text) {
        return Some(format!("marketplace:{text}"));
    }
    if is_tag(text) {
        return Some(text.to_owned());
    }
    location(text).or_else(|| text.contains(':').then(|| format!("catalogue:{text}")))
}

/// What an image is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To be started. What the cloud keeps of a catalogue is not meant: the catalogue is asked what its name means now.
    Start,
    /// Its content, or what is told of it: one that failed is not meant if there is another.
    Content,
    /// To be removed, with what of it can't be had back: it must be the only one.
    Remove,
}

/// The path of the image of a name, if there is one: one's own, else that of somebody else.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError); [`Failure::Work`] when several of one's own have the name, or several of others, with what
/// tells them apart.
pub async fn image_named(api: &Api, name: &str, named_for: Use) -> Result<Option<String>> {
    let mut named = api.views::<ImageView>("MachineImage").await?;
    named.retain(|image| image.name.as_deref() == Some(name));
    let (products, mut named): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|image| image.is_product_of(name));
    match named_for {
        Use::Start => {}
        Use::Content => named.extend(newest(products)),
        Use::Remove => named.extend(products),
    }
    if named.len() > 1 {
        named = meant(named, api.own_name().await.as_deref(), named_for);
    }
    match named.as_slice() {
        [] => Ok(None),
        [image] => Ok(Some(image.id.clone())),
        several => Err(Failure::Work(format!(
            "{} images have the name '{name}'; take one of {}",
            several.len(),
            choices(several).join(", ")
        ))),
    }
}

/// The newest version of a product that can be used; if none can, the newest.
fn newest(versions: Vec<ImageView>) -> Option<ImageView> {
    // Times of one form, so their order as texts is theirs.
    versions.into_iter().max_by_key(|image| {
        (
            image.state.as_deref() == Some("AVAILABLE"),
            image.created.clone(),
        )
    })
}

/// Those of them that are usable, if there are any, and of these a user's own, if there are any: what others publish or share changes
/// nothing about one's own names. Of others' none comes first: who shares an image under a well-known name must not decide what is
/// started by it.
fn meant(mut images: Vec<ImageView>, user: Option<&str>, named_for: Use) -> Vec<ImageView> {
    if named_for != Use::Remove && !images.iter().all(ImageView::has_failed) {
        images.retain(|image| !image.has_failed());
    }
    let is_own = |image: &ImageView| user.is_some() && image.owner.as_deref() == user;
    if images.iter().any(is_own) {
        images.retain(is_own);
    }
    images
}

/// What each image can be called by, and of those that failed why. Two of the same content have the same identifier, and are told
/// apart by their ids.
fn choices(images: &[ImageView]) -> Vec<String> {
    let of_content = |identifier: &str| {
        let same = |image: &&ImageView| image.identifier.as_deref() == Some(identifier);
        images.iter().filter(same).count()
    };
    let choices = images.iter().map(|image| {
        let identifier = image.identifier.as_deref();
        let called = identifier.filter(|identifier| of_content(identifier) == 1);
        let called = called.unwrap_or(&image.id);
        if image.has_failed() {
            format!("{called} (ERROR: {})", image.why_failed())
        } else {
            called.to_owned()
        }
    });
    choices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_nearly_an_identifier_is_told_to_be_so() {
        for (text, told) in [
            (
                "MMZu9WvwKIro-rtBQfDk4PsKO7_x",
                "27 characters, `MMZu9WvwKIro-rtBQfDk4PsKO7_x` has 28",
            ),
            ("MMZu9WvwKIro-rtBQfDk4PsKO7", "has 26"),
            ("MMZu9WvwKIro+rtBQfDk4PsKO7_", "only A-Z"),
            ("zMZu9WvwKIro-rtBQfDk4PsKO7_", "one of A to P"),
        ] {
            let hint = nearly_identifier(text).unwrap_or_else(|| panic!("{text}"));
            assert!(hint.contains(told), "{hint}");
        }
        for text in [
            "debian-12-with-web-server",
            "Debian 12 of the year 2030",
            "base",
            "MMZu9WvwKIro-rtBQfDk4PsKO7_",
        ] {
            assert_eq!(nearly_identifier(text), None, "{text}");
        }
        let told = of_argument(
            Failure::Work("`machineTemplate.machineImage` refers to x".to_owned()),
            "IMAGE",
        )
        .to_string();
        assert_eq!(told, "`IMAGE` refers to x");
        for (location, told) in [
            ("catalogue:tools:x", "`tools:x` leads to no image"),
            (
                "base@ann@example.org",
                "`base@ann@example.org` leads to no image",
            ),
            (
                "https://example.org/x",
                "`https://example.org/x` leads to no image",
            ),
        ] {
            let refused = Failure::Work("`imageLocation` leads to no image".to_owned());
            assert_eq!(of_argument(refused, as_written(location)).to_string(), told);
        }
    }

    #[test]
    fn lists_of_marketplaces_are_no_images() {
        assert!(is_list(
            "https://m.example.org/marketplace/metadata?search=x"
        ));
        assert!(is_list("https://m.example.org/metadata/"));
        assert!(!is_list(
            "https://m.example.org/metadata/MMZu9WvwKIro-rtBQfDk4PsKO7_"
        ));
        assert!(!is_list("https://m.example.org/x.img?a=/metadata"));
    }

    #[test]
    fn tags_have_their_endorser() {
        for text in ["base@ann@example.org", "debian:12@ann@example.org"] {
            assert!(is_tag(text), "{text}");
            assert_eq!(location_of(text).as_deref(), Some(text));
        }
        for text in [
            "ann@example.org",
            "@ann@example.org",
            "ubuntu:24.04@20300110",
            "x@a/b@c",
            "base",
        ] {
            assert!(!is_tag(text), "{text}");
        }
    }

    #[test]
    fn a_name_means_ones_own_image_first() {
        let image = |id: &str, owner: &str, visibility: &str| ImageView {
            id: id.to_owned(),
            owner: Some(owner.to_owned()),
            visibility: Some(visibility.to_owned()),
            ..ImageView::default()
        };
        let all = [
            image("public", "bob", "PUBLIC"),
            image("other", "carol", "PUBLIC"),
            image("shared", "bob", "PRIVATE"),
            image("own", "ann", "PUBLIC"),
        ];
        let of = |images: &[ImageView], user| {
            let ids = meant(images.to_vec(), user, Use::Content).into_iter();
            ids.map(|image| image.id).collect::<Vec<_>>()
        };
        assert_eq!(of(&all, Some("ann")), ["own"]);
        // What bob shares with ann is not what everybody means by the name.
        let of_others = ["public", "other", "shared"];
        assert_eq!(of(&all[..3], Some("ann")), of_others);
        assert_eq!(of(&all[..2], Some("carol")), ["other"]);
        assert_eq!(of(&all[..3], None), of_others);
    }

    #[test]
    fn an_image_that_failed_is_meant_only_where_there_is_no_other() {
        let image = |id: &str, owner: &str, state: &str| ImageView {
            id: id.to_owned(),
            owner: Some(owner.to_owned()),
            state: Some(state.to_owned()),
            reason: (state == "ERROR").then(|| "no such host".to_owned()),
            ..ImageView::default()
        };
        let all = [
            image("failed", "ann", "ERROR"),
            image("good", "ann", "AVAILABLE"),
            image("coming", "bob", "CREATING"),
        ];
        let of = |images: &[&ImageView], named_for| {
            let images = images.iter().map(|image| (*image).clone()).collect();
            let ids = meant(images, Some("ann"), named_for).into_iter();
            ids.map(|image| image.id).collect::<Vec<_>>()
        };
        let [failed, good, coming] = [&all[0], &all[1], &all[2]];
        assert_eq!(of(&[failed, good, coming], Use::Content), ["good"]);
        assert_eq!(of(&[failed, coming], Use::Content), ["coming"]);
        assert_eq!(of(&[failed], Use::Content), ["failed"]);
        // What is removed is told apart by who removes it.
        let both = meant(vec![failed.clone(), good.clone()], Some("ann"), Use::Remove);
        assert_eq!(choices(&both), ["failed (ERROR: no such host)", "good"]);
    }

    #[test]
    fn of_a_product_the_newest_version_that_is_here_is_meant() {
        let image = |id: &str, state: &str, created: &str| ImageView {
            id: id.to_owned(),
            state: Some(state.to_owned()),
            created: Some(created.to_owned()),
            image_location: Some(format!("catalogue:tools:tools-1.1@{id}")),
            ..ImageView::default()
        };
        let old = image("1", "AVAILABLE", "2030-01-01T00:00:00.000Z");
        let new = image("2", "AVAILABLE", "2030-02-01T00:00:00.000Z");
        let failed = image("3", "ERROR", "2030-03-01T00:00:00.000Z");
        assert!(old.is_product_of("tools:tools-1.1") && !old.is_product_of("tools"));
        assert!(!old.is_product_of("other:tools-1.1"));
        let of = |versions: &[&ImageView]| {
            let versions = versions.iter().map(|image| (*image).clone()).collect();
            newest(versions).map(|image| image.id)
        };
        assert_eq!(of(&[&new, &old, &failed]).as_deref(), Some("2"));
        assert_eq!(of(&[&failed]).as_deref(), Some("3"));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn images_of_the_same_content_are_told_apart() {
        let image = |id: &str, identifier: Option<&str>| ImageView {
            id: format!("MachineImage/{id}"),
            identifier: identifier.map(str::to_owned),
            ..ImageView::default()
        };
        let images = [
            image("a", Some("same")),
            image("b", Some("same")),
            image("c", Some("other")),
            image("d", None),
        ];
        assert_eq!(
            choices(&images),
            [
                "MachineImage/a",
                "MachineImage/b",
                "other",
                "MachineImage/d"
            ]
        );
    }
}
