//! Undoes the compression of an image while it streams by, in bounded memory.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Memory an xz or zstd stream may make us reserve. `xz -9` needs 65 MiB, `zstd --long=27` 128 MiB.
const MAX_WINDOW_BYTES: u64 = 192 << 20;
/// The same for zstd, which states it as a power of two: 128 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// How the file of an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip (RFC 1952), one or several members.
    Gz,
    /// bzip2, one or several streams.
    Bz2,
    /// xz, one or several streams.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    const ALL: [Self; 4] = [Self::Gz, Self::Bz2, Self::Xz, Self::Zstd];

    /// The name used in Marketplace entries and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    const fn magic(self) -> &'static [u8] {
        match self {
            Self::Gz => &[0x1f, 0x8b, 8],
            Self::Bz2 => b"BZh",
            Self::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        }
    }

    /// Recognises a compressed stream by its first bytes (six are enough).
    #[must_use]
    pub fn detect(first_bytes: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|compression| first_bytes.starts_with(compression.magic()))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = Error;

    /// Reads the names in use: `gz`, `gzip`, `bz2`, `bzip2`, `xz`, `zst`, `zstd`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Ok(Self::Gz),
            "bz2" | "bzip2" => Ok(Self::Bz2),
            "xz" => Ok(Self::Xz),
            "zst" | "zstd" => Ok(Self::Zstd),
            _ => Err(Error::Invalid {
                what: "compression",
                value: text.chars().take(40).collect(),
                reason: "one of gz, bz2, xz and zstd is".to_owned(),
            }),
        }
    }
}

/// What is stated of how a file is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// Nothing: its first bytes tell.
    #[default]
    Unknown,
    /// How; its first bytes must agree.
    As(Compression),
}

impl Packing {
    /// How a file is compressed that begins so (six bytes are enough).
    ///
    /// # Errors
    /// [`Error::Decompress`] if it is not what was stated.
    pub fn of(self, first_bytes: &[u8]) -> Result<Option<Compression>, Error> {
        let found = Compression::detect(first_bytes);
        match self {
            Self::Unknown => Ok(found),
            Self::As(stated) if found == Some(stated) => Ok(found),
            Self::As(stated) => Err(Error::Decompress {
                compression: stated.as_str(),
                reason: match found {
                    Some(found) => format!("its first bytes are those of {found}"),
                    None => "its first bytes are not those of this compression".to_owned(),
                },
            }),
        }
    }
}

/// A reader of the uncompressed bytes of `source`.
///
/// # Errors
/// [`Error::Decompress`] if the stream cannot be started; otherwise what reading `source` says.
pub fn reader<'a>(
    source: impl BufRead + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + 'a>> {
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::Gz => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Bz2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                MAX_WINDOW_BYTES,
                liblzma::stream::CONCATENATED,
            )
            .map_err(|error| wrap(compression, error.to_string()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Named { inner, compression }))
}

/// Says in every error of a decoder which decoder it was; errors of the source below it pass unchanged.
struct Named<R> {
    inner: R,
    compression: Compression,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted
                || error.get_ref().is_some_and(|e| e.is::<Error>())
            {
                error
            } else {
                wrap(self.compression, error.to_string())
            }
        })
    }
}

/// Errors of this crate travel through `Read` inside an [`io::Error`].
fn wrap(compression: Compression, reason: String) -> io::Error {
    io::Error::other(Error::Decompress {
        compression: compression.as_str(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match compression {
            Compression::Gz => {
                let mut encoder =
                    flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
                encoder
                    .write_all(bytes)
                    .and_then(|()| encoder.finish().map(drop))
                    .expect("gz");
            }
            Compression::Bz2 => {
                let mut encoder =
                    bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::fast());
                encoder
                    .write_all(bytes)
                    .and_then(|()| encoder.finish().map(drop))
                    .expect("bz2");
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(&mut out, 0);
                encoder
                    .write_all(bytes)
                    .and_then(|()| encoder.finish().map(drop))
                    .expect("xz");
            }
            Compression::Zstd => out = zstd::encode_all(bytes, 1).expect("zstd"),
        }
        out
    }

    fn read_all(bytes: &[u8], stated: Packing) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match stated.of(bytes).map_err(io::Error::other)? {
            Some(compression) => reader(bytes, compression)?.read_to_end(&mut out)?,
            None => out.write(bytes)?,
        };
        Ok(out)
    }

    #[test]
    fn each_kind_is_found_and_undone_also_when_concatenated() {
        let text = b"something to compress, and again: something to compress".repeat(50);
        for compression in Compression::ALL {
            let packed = compress(compression, &text);
            assert_eq!(read_all(&packed, Packing::Unknown).expect("found"), text);
            let stated = Packing::As(compression.as_str().parse().expect("a name"));
            assert_eq!(read_all(&packed, stated).expect("stated"), text);
            let twice = [packed.clone(), packed].concat();
            assert_eq!(
                read_all(&twice, Packing::Unknown)
                    .expect("concatenated")
                    .len(),
                2 * text.len(),
                "{compression}"
            );
        }
        assert_eq!(read_all(&text, Packing::Unknown).expect("plain"), text);
        assert_eq!(
            read_all(b"ab", Packing::Unknown).expect("shorter than any magic"),
            b"ab"
        );
    }

    #[test]
    fn a_wrong_statement_and_a_cut_stream_are_errors_that_name_the_kind() {
        let text = b"something".repeat(5000);
        for compression in Compression::ALL {
            let error = read_all(&text, Packing::As(compression))
                .expect_err("plain")
                .to_string();
            assert!(error.contains(compression.as_str()), "{error}");
            let packed = compress(compression, &text);
            let error = read_all(&packed[..packed.len() - 5], Packing::Unknown)
                .expect_err("cut")
                .to_string();
            assert!(error.contains(compression.as_str()), "{error}");
        }
    }

    #[test]
    fn a_window_beyond_the_memory_limit_is_refused() {
        // Frame header: no checksum, window descriptor 2^31, then one empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
        let error = read_all(&frame, Packing::Unknown)
            .expect_err("2 GiB window")
            .to_string();
        assert!(error.contains("zstd"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0_usize..4, tail in proptest::collection::vec(any::<u8>(), 0..512)) {
            let bytes = [Compression::ALL[kind].magic(), &tail].concat();
            let mut sink = io::sink();
            if let Ok(reader) = reader(&bytes[..], Compression::ALL[kind]) {
                let _ = io::copy(&mut reader.take(1 << 20), &mut sink);
            }
        }
    }
}
