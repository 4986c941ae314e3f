//! What operations answer, in no dialect.

use std::{borrow::Cow, fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use cimi::{Right, model::Kind, query::Attributes};
use futures::Stream;
use serde_json::{Map, Value};

/// Something a caller may do with a resource in its present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rel {
    /// Add a member to this collection.
    Add,
    /// Change it.
    Edit,
    /// Delete it.
    Delete,
    /// Make an image of it: by a creation in the collection of images.
    Capture,
    /// An action by its name, lower case: `start`.
    Action(&'static str),
}

/// A resource as the outside may see it. Making one is cheap; the costly part, the attributes' JSON,
/// is made only when no rendered form with the same [`View::stamp`] is at hand.
pub trait Document: Attributes + Send + Sync {
    /// The public attributes by their CIMI names, beside `id`, `resourceURI` and `operations`
    /// (those follow from the view). In any order; what is not in the table of [`cimi::model`] is
    /// left out of the representation.
    fn attributes(&self, right: Right) -> Map<String, Value>;

    /// What a caller with `right` may do with it now. `Edit`, `Delete` and actions; doors make the
    /// hrefs.
    fn operations(&self, right: Right) -> Vec<Rel>;
}

/// One resource as one caller may see it.
#[derive(Clone)]
pub struct View {
    /// Its type.
    pub kind: Kind,
    /// Its id: `Machine/<uuid>`, `Machine/<uuid>/volumes/<uuid>`.
    pub id: Arc<str>,
    /// Names the content: two views with the same id, right and stamp have the same representation.
    /// `None` if nothing can be promised (e.g. it contains measurements that change unwritten).
    pub stamp: Option<u64>,
    /// The caller's right, at least `View`.
    pub right: Right,
    /// The content.
    pub document: Arc<dyn Document>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("id", &self.id)
            .field("stamp", &self.stamp)
            .field("right", &self.right)
            .finish_non_exhaustive()
    }
}

/// A list, or a page of it.
#[derive(Clone, Debug)]
pub struct Page {
    /// How many match that the caller may see, before paging.
    pub count: usize,
    /// The members of the page, in order.
    pub members: Vec<View>,
    /// Whether the caller may add a member.
    pub can_add: bool,
}

/// A creation.
#[derive(Clone, Debug)]
pub struct Created {
    /// The new resource (in state CREATING if work goes on).
    pub view: View,
    /// The job that tells of the work that goes on: `Job/<uuid>`.
    pub job: Option<String>,
    /// Nothing was made: what was asked for was there already, and is `view`.
    pub existed: bool,
}

/// A change, a deletion or an action.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The resource afterwards, if there still is one and it is worth showing.
    pub view: Option<View>,
    /// The job that tells of work that goes on; none: all is done.
    pub job: Option<String>,
}

/// Bytes as they come, with errors of the transport.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Content on its way in. Dropping it tells the sender to stop; reading slowly slows the sender.
pub struct Upload {
    /// Its length in bytes, if the sender said so.
    pub length: Option<u64>,
    /// The content.
    pub content: ByteStream,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Which part of a serial console is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleRange {
    /// From this offset (counted since the machine was created).
    pub offset: Option<u64>,
    /// At most so many bytes from the end; with `offset`, whichever begins later.
    pub last: Option<u64>,
    /// Go on as the guest writes, until the machine is gone or the caller leaves.
    pub follow: bool,
}

/// A serial console.
pub struct Console {
    /// Offset of the first byte.
    pub start: u64,
    /// What the guest wrote.
    pub content: ByteStream,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// How well the cloud is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// All is well.
    Ok,
    /// It works, but somebody should look.
    Degraded,
    /// It doesn't work.
    Failing,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// E.g. `database`.
    pub name: Cow<'static, str>,
    /// Whether it is well.
    pub ok: bool,
    /// What was seen; for administrators only.
    pub detail: String,
    /// Whether no machine can start while it isn't well.
    pub vital: bool,
}

/// How well the cloud is.
#[derive(Clone, Debug)]
pub struct Health {
    /// In a word.
    pub status: HealthStatus,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Attributes for View {
    fn attribute(&self, name: &str) -> Option<cimi::query::Scalar<'_>> {
        self.document.attribute(name)
    }

    fn several(&self, name: &str) -> Vec<cimi::query::Scalar<'_>> {
        self.document.several(name)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.document.property(key)
    }
}
