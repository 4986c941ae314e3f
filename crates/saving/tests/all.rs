//! What authors of saved images are told, and what Marketplaces get.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

mod saved_images_are_announced;
