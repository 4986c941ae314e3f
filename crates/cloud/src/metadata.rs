//! ResourceMetadata: what is told of the types themselves. Not stored: it is the table of the model.

use std::sync::{Arc, LazyLock};

use cimi::{
    Right,
    model::{self, Kind},
    query::Query,
};

use crate::{CloudError, Page, Result, View, catalogue::Plain};

/// One of each type, by name.
static ALL: LazyLock<Vec<View>> = LazyLock::new(|| {
    let mut kinds = Kind::ALL.to_vec();
    kinds.sort_unstable_by_key(|kind| kind.name());
    kinds.into_iter().map(view).collect()
});

fn view(kind: Kind) -> View {
    View {
        kind: Kind::ResourceMetadata,
        id: format!("{}/{kind}", Kind::ResourceMetadata).into(),
        // It changes with the program only.
        stamp: Some(0),
        right: Right::View,
        document: Arc::new(Plain {
            attributes: model::metadata(kind),
            operations: Vec::new(),
        }),
    }
}

pub(crate) fn list(query: &Query) -> Page {
    let (count, members) = query.page(ALL.iter().cloned());
    Page {
        count,
        members,
        can_add: false,
    }
}

/// That of the type of this name.
pub(crate) fn get(name: &str) -> Result<View> {
    let found = ALL
        .iter()
        .find(|view| view.id.rsplit('/').next() == Some(name));
    found
        .cloned()
        .ok_or_else(|| CloudError::not_found(format!("{}/{name}", Kind::ResourceMetadata)))
}
