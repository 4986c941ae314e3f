//! Runs `qemu-img` on files of strangers as if it were theirs: without rights, network, environment or much of anything.
//!
//! The files are opened by us and handed over as descriptors, so the program needs no path and no directory. The format
//! is always stated. Time, processor, memory, file size and output are limited, and the process group is killed on
//! time-out and when nobody waits any more.

mod child;
mod run;

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

pub(crate) use self::child::{confine, confine_in_network, connect_as, leave_network};
pub(crate) use self::run::Done;
use self::run::Running;
use crate::durable::{Durability, RemoveOnDrop, UNFINISHED};
use crate::error::Error;
use crate::foreign::ForeignFormat;
use crate::inspect::{Refusal, SizeLimits};
use crate::{durable, qcow2};

/// What a confined program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Wall-clock time.
    pub time: Duration,
    /// Processor time.
    pub cpu: Duration,
    /// Address space.
    pub memory_bytes: u64,
    /// Output of each kind that is kept; more is read and forgotten.
    pub output_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30 * 60),
            cpu: Duration::from_secs(10 * 60),
            memory_bytes: 1 << 30,
            output_bytes: 256 * 1024,
        }
    }
}

/// The `qemu-img` of this host, confined.
#[derive(Debug, Clone)]
pub struct QemuImg {
    program: PathBuf,
    /// User and group it runs as when we are root.
    user: (u32, u32),
    bounds: Bounds,
}

/// What `qemu-img info` says that matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    backing_filename: Option<String>,
}

/// What `qemu-img measure` says that matters here.
#[derive(Debug, Deserialize)]
struct Measured {
    /// Bytes of a file that holds what the image holds.
    required: u64,
}

impl QemuImg {
    /// `qemu-img` at this absolute path, run as user and group `nobody` (65534) when we are root.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file.
    pub fn at(program: &Path) -> Result<Self, Error> {
        if !program.is_absolute() || !program.is_file() {
            return Err(Error::NotFound {
                kind: "program",
                name: program.display().to_string(),
            });
        }
        Ok(Self {
            program: program.to_owned(),
            user: (65534, 65534),
            bounds: Bounds::default(),
        })
    }

    /// The same with other bounds.
    #[must_use]
    pub const fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// The same run as another user and group when we are root.
    #[must_use]
    pub const fn with_user(mut self, uid: u32, gid: u32) -> Self {
        self.user = (uid, gid);
        self
    }

    /// Has an examined qcow2 image judged: `info` agrees with us on its size and `check` finds no corruption. Blocks;
    /// ends early when nobody writes to the pipe `cancelled` any more.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Tool`] with what the program says.
    pub fn accepts(
        &self,
        image: &File,
        virtual_bytes: u64,
        cancelled: Option<&OwnedFd>,
    ) -> Result<(), Error> {
        let info: Info = self.ask("info", image, "qcow2", &[], cancelled)?;
        if info.virtual_size != virtual_bytes {
            let (expected, found) = (virtual_bytes.to_string(), info.virtual_size.to_string());
            return Err(Error::Mismatch {
                what: "virtual size",
                expected,
                found,
            });
        }
        let path = self.path_of(image);
        let done = self.run(
            &["check", "-f", "qcow2", "--output", "json", &path],
            &[image],
            0,
            cancelled,
        )?;
        match done.status.code() {
            // 3: clusters that belong to nothing. A waste of space, no danger.
            Some(0 | 3) => Ok(()),
            Some(2) => Err(Refusal::Corrupt.into()),
            _ => Err(done.error("qemu-img check")),
        }
    }

    /// Converts the disk image `source` into the new standalone qcow2 file `target`. Returns the size of the disk.
    ///
    /// The source is examined by us first: only self-contained VMDK, VDI and VHD images get as far as `qemu-img`.
    /// Dropping the future kills the program and leaves nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] for what the image is, [`Error::Tool`] for what the program says, [`Error::Exists`] if there
    /// is a `target`, [`Error::Io`].
    pub async fn convert(
        &self,
        source: &Path,
        format: ForeignFormat,
        target: &Path,
        limits: SizeLimits,
    ) -> Result<u64, Error> {
        // Dropping `_waiting` is what the loop in `wait` sees when this future is dropped.
        let (cancelled, _waiting) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(Error::errno("make a pipe to convert", source))?;
        let (this, source, target) = (self.clone(), source.to_owned(), target.to_owned());
        tokio::task::spawn_blocking(move || {
            this.convert_now(&source, format, &target, &limits, &|_| Ok(()), &cancelled)
        })
        .await
        .unwrap_or(Err(Error::Cancelled))
    }

    /// As [`convert`](Self::convert), blocking until nobody writes to the pipe `cancelled` any more. `room` is asked
    /// whether so many bytes may be written.
    pub(crate) fn convert_now(
        &self,
        source: &Path,
        format: ForeignFormat,
        target: &Path,
        limits: &SizeLimits,
        room: &dyn Fn(u64) -> Result<(), Error>,
        cancelled: &OwnedFd,
    ) -> Result<u64, Error> {
        /// Room for headers and tables beside what is measured.
        const SLACK_BYTES: u64 = 16 << 20;
        let input = File::open(source).map_err(Error::io("open", source))?;
        format.examine(&input, source)?;
        let cancelled = Some(cancelled);
        let info: Info = self.ask("info", &input, format.as_str(), &[], cancelled)?;
        if let Some(name) = info.backing_filename {
            return Err(Refusal::BackingFile(name.escape_debug().to_string()).into());
        }
        let virtual_bytes = info.virtual_size;
        if virtual_bytes > limits.max_virtual_bytes {
            return Err(Refusal::VirtualSize {
                virtual_bytes,
                limit_bytes: limits.max_virtual_bytes,
            }
            .into());
        }
        let to_qcow2 = ["-O", "qcow2"];
        let measured: Measured =
            self.ask("measure", &input, format.as_str(), &to_qcow2, cancelled)?;
        room(measured.required)?;
        let unfinished =
            target.with_file_name(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
        qcow2::create(&unfinished, virtual_bytes, None, Durability::Cached)?;
        let mut guard = RemoveOnDrop::new(unfinished.clone());
        let output = File::options()
            .read(true)
            .write(true)
            .open(&unfinished)
            .map_err(Error::io("open", &unfinished))?;
        let (uid, gid) = self.user;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&output, Some(uid), Some(gid))
                .map_err(Error::io("hand over", &unfinished))?;
        }
        let (from, to) = (self.path_of(&input), self.path_of(&output));
        let arguments = [
            "convert",
            "-n",
            "--target-is-zero",
            "-f",
            format.as_str(),
            "-O",
            "qcow2",
            &from,
            &to,
        ];
        // A full disk, its tables, and some room for alignment.
        let max_file_bytes = virtual_bytes
            .saturating_add(virtual_bytes / 1024)
            .min(measured.required)
            .saturating_add(SLACK_BYTES);
        let done = self.run(&arguments, &[&input, &output], max_file_bytes, cancelled)?;
        if !done.status.success() {
            if done.found_no_space() {
                let full = std::io::ErrorKind::StorageFull.into();
                return Err(Error::io("convert the image into", &unfinished)(full));
            }
            return Err(done.error("qemu-img convert"));
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&output, Some(0), Some(0))
                .map_err(Error::io("take back", &unfinished))?;
        }
        output
            .set_permissions(fs::Permissions::from_mode(0o600))
            .and_then(|()| output.sync_all())
            .map_err(Error::io("flush", &unfinished))?;
        durable::rename_new(&unfinished, target)?;
        guard.keep();
        durable::sync_parent(target)?;
        Ok(virtual_bytes)
    }

    /// Writes the standalone qcow2 image `source` into the empty file `target` as another format. Both are given to the user
    /// that the program runs as: they must belong to nobody else. Blocks.
    ///
    /// # Errors
    /// [`Error::Tool`] with what the program says; [`Error::Io`].
    pub(crate) fn export(
        &self,
        source: &File,
        target: &File,
        format: &str,
        max_file_bytes: u64,
    ) -> Result<(), Error> {
        if rustix::process::geteuid().is_root() {
            for file in [source, target] {
                std::os::unix::fs::fchown(file, Some(self.user.0), Some(self.user.1))
                    .map_err(Error::io("hand over", &self.program))?;
            }
        }
        let (from, to) = (self.path_of(source), self.path_of(target));
        let mut arguments = vec!["convert", "-f", "qcow2", "-O", format];
        if format == "vpc" {
            // Otherwise the size is rounded to what a geometry of cylinders can say.
            arguments.extend(["-o", "force_size=on"]);
        }
        arguments.extend([from.as_str(), to.as_str()]);
        let done = self.run(&arguments, &[source, target], max_file_bytes, None)?;
        if done.status.success() {
            Ok(())
        } else {
            Err(done.error("qemu-img convert"))
        }
    }

    /// What a subcommand that only looks says as JSON.
    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        subcommand: &str,
        image: &File,
        format: &str,
        more: &[&str],
        cancelled: Option<&OwnedFd>,
    ) -> Result<T, Error> {
        let path = self.path_of(image);
        let arguments = [
            &[subcommand, "-f", format, "--output", "json"],
            more,
            &[&path],
        ]
        .concat();
        let done = self.run(&arguments, &[image], 0, cancelled)?;
        let program = format!("qemu-img {subcommand}");
        if !done.status.success() {
            return Err(done.error(&program));
        }
        serde_json::from_slice(&done.stdout).map_err(|error| Error::Tool {
            program,
            reason: error.to_string(),
        })
    }

    /// The name under which the child finds a descriptor it inherits.
    #[expect(clippy::unused_self, reason = "reads as what the program will see")]
    fn path_of(&self, file: &File) -> String {
        format!("/proc/self/fd/{}", file.as_raw_fd())
    }

    /// Runs the program to its end. Files it may not write need to be readable by all (they are opened anew by it).
    fn run(
        &self,
        arguments: &[&str],
        files: &[&File],
        max_file_bytes: u64,
        cancelled: Option<&OwnedFd>,
    ) -> Result<Done, Error> {
        let child = Confined {
            program: &self.program,
            user: self.user,
            bounds: &self.bounds,
        };
        child.run("qemu-img", arguments, files, max_file_bytes, cancelled)
    }
}

/// The `debugfs` of this host (e2fsprogs), confined.
#[derive(Debug, Clone)]
pub struct Debugfs {
    program: PathBuf,
    /// User and group it runs as when we are root.
    user: (u32, u32),
    bounds: Bounds,
}

impl Debugfs {
    /// `debugfs` at this absolute path, run as user and group `nobody` (65534) when we are root.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file.
    pub fn at(program: &Path) -> Result<Self, Error> {
        let QemuImg {
            program,
            user,
            bounds,
        } = QemuImg::at(program)?;
        Ok(Self {
            program,
            user,
            bounds,
        })
    }

    /// Runs commands, one a line, on a file system in a file that may be written. Whether they did what they should must be
    /// looked at afterwards: the program ends with 0 whatever happens. Blocks.
    ///
    /// # Errors
    /// [`Error::Tool`]; [`Error::Io`].
    pub(crate) fn edit(&self, image: &File, commands: &str) -> Result<(), Error> {
        let failed = |errno: rustix::io::Errno| Error::io("prepare", &self.program)(errno.into());
        let script: File = rustix::fs::memfd_create("commands", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(failed)?
            .into();
        std::os::unix::fs::FileExt::write_all_at(&script, commands.as_bytes(), 0)
            .map_err(Error::io("prepare", &self.program))?;
        if rustix::process::geteuid().is_root() {
            for file in [image, &script] {
                std::os::unix::fs::fchown(file, Some(self.user.0), Some(self.user.1))
                    .map_err(Error::io("hand over", &self.program))?;
            }
        }
        let length = image
            .metadata()
            .map_err(Error::io("examine", &self.program))?;
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let child = Confined {
            program: &self.program,
            user: self.user,
            bounds: &self.bounds,
        };
        let arguments = ["-w", "-f", &path(&script), &path(image)];
        let done = child.run("debugfs", &arguments, &[image, &script], length.len(), None)?;
        if done.status.success() {
            Ok(())
        } else {
            Err(done.error("debugfs"))
        }
    }
}

/// Runs another program that only looks at descriptors it inherits (named `/proc/self/fd/N`), as user and group `nobody` (65534)
/// when we are root. Blocks.
///
/// # Errors
/// [`Error::Io`], [`Error::Tool`].
pub(crate) fn run_as_nobody(
    program: &Path,
    arguments: &[&str],
    files: &[&File],
    bounds: &Bounds,
) -> Result<Done, Error> {
    let name = program
        .file_name()
        .unwrap_or_default()
        .display()
        .to_string();
    let child = Confined {
        program,
        user: (65534, 65534),
        bounds,
    };
    child.run(&name, arguments, files, 0, None)
}

/// How a program is run on a stranger's files.
struct Confined<'a> {
    program: &'a Path,
    user: (u32, u32),
    bounds: &'a Bounds,
}

impl Confined<'_> {
    fn run(
        &self,
        name: &str,
        arguments: &[&str],
        files: &[&File],
        max_file_bytes: u64,
        cancelled: Option<&OwnedFd>,
    ) -> Result<Done, Error> {
        let mut command = Command::new(self.program);
        command
            .args(arguments)
            .env_clear()
            // Each further arena of glibc reserves 64 MiB of the address space that we limit.
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        confine(&mut command, files, self.user, self.bounds, max_file_bytes);
        let child = command.spawn().map_err(Error::io("run", self.program))?;
        Running::new(child)
            .wait(self.bounds, cancelled)
            .map_err(|reason| Error::Tool {
                program: format!("{name} {}", arguments.first().unwrap_or(&"")),
                reason,
            })
    }
}
