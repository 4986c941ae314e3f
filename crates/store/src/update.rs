//! Read, modify, compare and write; again if somebody was faster.

use thiserror::Error;

use crate::cache::{Document, DocumentError};
use crate::{Key, KeyError, Outcome, Revision, Store, StoreError, Transaction};

/// How often [`update`] tries before it gives up. Each round somebody else has succeeded.
const MAX_ATTEMPTS: u32 = 32;

/// What the function given to [`update`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Write the document.
    Save,
    /// It is as it should be: write nothing.
    Unchanged,
}

/// A document after [`update`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated<D> {
    /// As it is stored now.
    pub document: D,
    /// The revision it was last modified at: what a reader of the cache has to wait for.
    pub revision: Revision,
}

/// Why an [`update`] didn't happen.
#[derive(Debug, Error)]
pub enum UpdateError<E> {
    /// The id can't be one.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// There is no such document.
    #[error("{0} does not exist")]
    Absent(Key),
    /// Others kept being faster.
    #[error("{key} was changed by others {attempts} times in a row: try again")]
    Contended {
        /// The document.
        key: Key,
        /// How often it was tried.
        attempts: u32,
    },
    /// The stored document can't be read, or the new one not be written.
    #[error("{key}: {source}")]
    Document {
        /// The document.
        key: Key,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The function refused.
    #[error("{0}")]
    Refused(E),
}

/// Change the document `id` by `edit`, which sees its newest state and may run several times.
///
/// The document keeps its lease. Nothing is written if `edit` fails or says [`Edit::Unchanged`].
///
/// # Errors
/// See [`UpdateError`].
pub async fn update<D: Document, E>(
    store: &dyn Store,
    id: &str,
    mut edit: impl FnMut(&mut D) -> Result<Edit, E> + Send,
) -> Result<Updated<D>, UpdateError<E>> {
    let key = Key::new(D::COLLECTION, id)?;
    let mut entry = store.get(&key).await?;
    for _ in 0..MAX_ATTEMPTS {
        let Some(current) = entry else {
            return Err(UpdateError::Absent(key));
        };
        let unusable = |source| UpdateError::Document {
            key: key.clone(),
            source,
        };
        let mut document = D::decode(&current.value).map_err(unusable)?;
        match edit(&mut document).map_err(UpdateError::Refused)? {
            Edit::Unchanged => {
                return Ok(Updated {
                    document,
                    revision: current.revision,
                });
            }
            Edit::Save => {}
        }
        let value = document.encode().map_err(unusable)?;
        let transaction = Transaction::new().revision_is(&key, current.revision);
        let transaction = match current.lease {
            Some(lease) => transaction.put_with_lease(key.clone(), value, lease),
            None => transaction.put(key.clone(), value),
        };
        match store.commit(transaction).await? {
            Outcome::Committed(revision) => return Ok(Updated { document, revision }),
            // The conflict brings the newest state with it.
            Outcome::Conflict(conflicts) => {
                entry = conflicts.into_iter().find_map(|conflict| conflict.current);
            }
        }
    }
    Err(UpdateError::Contended {
        key,
        attempts: MAX_ATTEMPTS,
    })
}
