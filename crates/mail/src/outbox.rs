//! Queueing.

use store::{Outcome, SharedStore, StoreError, Transaction};
use thiserror::Error;

use crate::{Letter, LetterError};

/// Why a letter was not queued.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// It can't be a letter.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where letters wait for their delivery: the store itself. Cheap to clone.
#[derive(Clone)]
pub struct Outbox(SharedStore);

impl std::fmt::Debug for Outbox {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Outbox")
    }
}

impl Outbox {
    /// That of a store.
    #[must_use]
    pub fn new(store: SharedStore) -> Self {
        Self(store)
    }

    /// Queue a letter by itself. What belongs to a change of documents goes into its transaction instead: [`Outbox::add`].
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn queue(&self, letter: &Letter) -> Result<(), OutboxError> {
        // The name is new: nobody has it.
        let transaction = Self::add(letter, Transaction::new())?;
        match self.0.commit(transaction).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(_) => {
                Err(LetterError::Form("its new name is in use: try again".to_owned()).into())
            }
        }
    }

    /// `transaction`, and with it the letter.
    ///
    /// # Errors
    /// [`LetterError::TooLarge`].
    pub fn add(letter: &Letter, transaction: Transaction) -> Result<Transaction, LetterError> {
        let (key, value) = letter.stored()?;
        Ok(transaction.absent(&key).put(key, value))
    }
}
