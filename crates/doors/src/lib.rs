//! The front doors: thin translators between a dialect and the calls of [`CloudApi`].

mod cloud_api;

pub use cloud_api::CloudApi;
