//! The small numbers of machines: rising, never given twice, not even after a crash.
//!
//! A process reserves a block of numbers with one compare-and-swap on a counter and hands them out from memory. What
//! is left of a block when the process ends is lost, which leaves a gap and harms nobody.

use std::time::{Duration, Instant};

use cimi::VmId;
use documents::{Documents, DocumentsError};
use store::{Key, Revision};
use tokio::sync::Mutex;

/// Smallest and largest block: blocks grow while numbers are wanted fast, and are single numbers while they are not, so
/// that a restart of a small cloud leaves no gap.
const BLOCK: (u32, u32) = (1, 1024);
/// A block that lasted so long was large enough.
const LASTED: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Block {
    next: u32,
    end: u32,
    size: u32,
    reserved: Option<Instant>,
}

/// Hands out machine numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    key: Key,
    block: Mutex<Block>,
}

impl Numbers {
    pub(crate) fn new() -> Result<Self, DocumentsError> {
        Ok(Self {
            key: Key::new("Counter", "vmid")?,
            block: Mutex::new(Block {
                size: BLOCK.0,
                ..Block::default()
            }),
        })
    }

    /// The next number.
    pub(crate) async fn next(&self, documents: &Documents) -> Result<VmId, DocumentsError> {
        let mut block = self.block.lock().await;
        if block.next == block.end {
            self.reserve(documents, &mut block).await?;
        }
        let number = block.next;
        block.next += 1;
        Ok(VmId(number))
    }

    async fn reserve(
        &self,
        documents: &Documents,
        block: &mut Block,
    ) -> Result<(), DocumentsError> {
        loop {
            let entry = documents.store().get(&self.key).await?;
            let (revision, first) = match &entry {
                None => (Revision::ZERO, 1),
                Some(entry) => (entry.revision, serde_json::from_slice(&entry.value)?),
            };
            let fast = block.reserved.is_some_and(|at| at.elapsed() < LASTED);
            let size = if fast {
                (block.size * 2).min(BLOCK.1)
            } else {
                BLOCK.0
            };
            let end = u32::saturating_add(first, size);
            let value = serde_json::to_vec(&end)?;
            match documents
                .changes()
                .put_raw(&self.key, revision, value)
                .commit()
                .await
            {
                Ok(_) => {
                    *block = Block {
                        next: first,
                        end,
                        size,
                        reserved: Some(Instant::now()),
                    };
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }
}
