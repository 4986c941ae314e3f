//! Images by their names.

use crate::cloud::{Api, ImageView};
use crate::failure::{Failure, Result};

/// The path of the only image of a name, if there is one.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError); [`Failure::Work`] when several have the name, with what tells them apart.
pub async fn image_named(api: &Api, name: &str) -> Result<Option<String>> {
    let mut named = api.views::<ImageView>("MachineImage").await?;
    named.retain(|image| image.name.as_deref() == Some(name));
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

/// What each image can be called by. Two of the same content have the same identifier, and are told apart by their ids.
fn choices(images: &[ImageView]) -> Vec<&str> {
    let unique = |identifier: &&str| {
        images
            .iter()
            .filter(|image| image.identifier.as_deref() == Some(*identifier))
            .count()
            == 1
    };
    images
        .iter()
        .map(|image| {
            image
                .identifier
                .as_deref()
                .filter(unique)
                .unwrap_or(&image.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
