//! The rules: one module a resource.

mod answer;
mod context;
mod error;

pub use answer::{
    ByteStream, Check, Console, ConsoleRange, Created, Document, Done, Health, HealthStatus, Page,
    Rel, Upload, View,
};
pub use context::{Caller, OpContext};
pub use error::{CloudError, Result};
