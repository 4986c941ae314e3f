//! Where the bytes of a cloud are: images, root disks, volumes.
//!
//! Images come from strangers: they are streamed into the cache under limits, examined before any program opens them,
//! and named by what they contain. Root disks are copy-on-write overlays on cached images, written in constant time.
//! Persistent volumes live in a [`backend`]. Everything that is made can be made twice, everything that is
//! deleted can be deleted twice, and what a crash leaves behind is found and swept. The [`controller`] does all this as
//! the documents of volumes and images ask for it. A host without storage of its own has [`replicas`] of images.

pub mod backend;
mod backing;
mod blocking;
mod buffers;
pub mod confine;
pub mod controller;
pub mod decompress;
pub mod digest;
pub mod disk;
pub mod durable;
pub mod elsewhere;
pub mod error;
mod exclusive;
pub mod exports;
pub mod foreign;
pub mod import;
pub mod inspect;
pub mod qcow2;
pub mod quarantine;
pub mod registry;
pub mod replicas;
pub mod space;
pub mod swap;

pub use durable::Durability;
pub use error::Error;
/// The name of an image's contents, as Marketplaces have it.
pub use marketplace::identifier;
