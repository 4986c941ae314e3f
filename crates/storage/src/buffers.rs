//! Memory for the chunks that content comes in, used again and again: fresh memory of the kernel costs about as much as what
//! is copied into it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// More than are under way in one import at once; what is given back beyond that is freed.
const MOST_KEPT: usize = 32;

/// Where buffers of one size come from and go back to. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    size: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer; it goes back when it is dropped, also as a part of [`Bytes`].
pub(crate) struct Buffer {
    memory: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// Buffers of so many bytes.
    pub(crate) fn of(size: usize) -> Self {
        Self {
            size,
            idle: Arc::default(),
        }
    }

    /// A buffer, in which there may be what it was used for before.
    pub(crate) fn take(&self) -> Buffer {
        let memory = self.idle.lock().pop();
        Buffer {
            memory: memory.unwrap_or_else(|| vec![0; self.size]),
            home: self.clone(),
        }
    }
}

impl Buffer {
    pub(crate) fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Its first `length` bytes, to be shared.
    pub(crate) fn into_bytes(self, length: usize) -> Bytes {
        let mut bytes = Bytes::from_owner(self);
        bytes.truncate(length);
        bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.idle.lock();
        if idle.len() < MOST_KEPT {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it_any_more() {
        let buffers = Buffers::of(8);
        let mut one = buffers.take();
        one.memory().copy_from_slice(b"01234567");
        let part = one.into_bytes(5);
        let (same, rest) = (part.clone(), part.slice(3..));
        drop(part);
        let other = buffers.take();
        assert_eq!(other.as_ref(), [0; 8], "the first is still read");
        assert_eq!((&same[..], &rest[..]), (&b"01234"[..], &b"34"[..]));
        drop((same, rest));
        assert_eq!(buffers.take().as_ref(), b"01234567");
    }
}
