//! What tests wait for an image to become, and contents for it.

use cimi::resources::{Image, ImageState};

pub(super) fn available(image: &Image) -> bool {
    image.state == ImageState::Available
}

pub(super) fn failed(image: &Image) -> bool {
    image.state == ImageState::Error
}

/// It has not come yet, and the reason has this in it.
pub(super) fn waiting_because(text: &'static str) -> impl Fn(&Image) -> bool {
    move |image| {
        let reason = image.reason.as_deref().unwrap_or_default();
        image.state == ImageState::Creating && reason.contains(text)
    }
}

/// So many numbers of four bytes: a content that is never the same over some length, and packs well.
pub(super) fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(|n| (n / 5).to_le_bytes()).collect()
}
