//! A client of QEMU's machine protocol (QMP): greeting, commands with ids, events, descriptors.
//!
//! Own code rather than the `qapi` crate, which can't pass descriptors (SCM_RIGHTS, needed for `add-fd`) and compiles the
//! whole schema for the dozen commands used here. One task owns the socket; commands and events pass through bounded
//! channels. A monitor serves one client at a time: a second connection gets no greeting until the first closes.
//! What QEMU sends is partly made by the guest, so lines are bounded and unknown fields ignored.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bytes::BufMut as _;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A greeting that takes longer means that somebody else holds the monitor, or that QEMU is stuck.
pub const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// No command we use does work before it answers.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer read; `query-named-block-nodes` of 64 disks is about 200 KiB.
const LINE_LIMIT: usize = 4 * 1024 * 1024;
/// Most bytes taken from the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// Commands waiting to be written; callers wait beyond.
const COMMAND_QUEUE: usize = 32;
/// Events waiting to be read; more are dropped and [`QmpEvent::Lost`] says so.
const EVENT_QUEUE: usize = 256;

/// What can go wrong on a monitor.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused the command.
    #[error("QMP {command}: {description} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class: `DeviceNotFound`, `CommandNotFound`, else mostly `GenericError`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// The connection ended, before or while waiting for the answer: the command may or may not have been carried out.
    #[error("QMP {command}: the monitor's connection is closed")]
    Closed {
        /// The command.
        command: String,
    },
    /// No answer in time; the command may still be carried out.
    #[error("QMP {command}: no answer within {limit:?}")]
    TimedOut {
        /// The command.
        command: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// What came is not QMP.
    #[error("QMP: unexpected {what}: {text}")]
    Protocol {
        /// What was expected or wrong.
        what: &'static str,
        /// The beginning of what came.
        text: String,
    },
}

impl QmpError {
    /// Whether QEMU said that it knows no such device.
    #[must_use]
    pub fn is_device_not_found(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "DeviceNotFound")
    }

    /// QEMU's words, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { description, .. } => Some(description),
            _ => None,
        }
    }
}

/// Something QEMU tells unasked.
#[derive(Debug, Clone, PartialEq)]
pub enum QmpEvent {
    /// An event.
    Happened {
        /// Its name, such as `SHUTDOWN`.
        name: String,
        /// Its data, `Null` if none.
        data: Value,
    },
    /// Events were dropped because nobody read them.
    Lost,
}

/// The version in the greeting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
    /// 22 of 7.2.22.
    pub micro: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A connected monitor. Dropping it closes the connection.
#[derive(Debug)]
pub struct Qmp {
    commands: mpsc::Sender<Outgoing>,
    version: QemuVersion,
    connection: JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[derive(Debug)]
struct Outgoing {
    name: String,
    arguments: Option<Value>,
    descriptor: Option<OwnedFd>,
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

impl Qmp {
    /// Takes a connected socket, waits for the greeting and enters command mode. The receiver gets the events.
    ///
    /// # Errors
    /// `TimedOut` without a greeting, `Closed` if QEMU ended, `Protocol` if it is something else.
    pub async fn start(
        socket: StdUnixStream,
    ) -> Result<(Self, mpsc::Receiver<QmpEvent>), QmpError> {
        Self::start_within(socket, GREETING_LIMIT).await
    }

    /// As [`Qmp::start`], with a limit for the greeting.
    ///
    /// # Errors
    /// As [`Qmp::start`].
    pub async fn start_within(
        socket: StdUnixStream,
        limit: Duration,
    ) -> Result<(Self, mpsc::Receiver<QmpEvent>), QmpError> {
        let closed = |_: io::Error| QmpError::Closed {
            command: "greeting".to_owned(),
        };
        socket.set_nonblocking(true).map_err(closed)?;
        let socket = UnixStream::from_std(socket).map_err(closed)?;
        let mut lines = Lines::default();
        let line = tokio::time::timeout(limit, lines.next(&socket))
            .await
            .map_err(|_| QmpError::TimedOut {
                command: "greeting".to_owned(),
                limit,
            })?
            .map_err(closed)?
            .ok_or_else(|| QmpError::Closed {
                command: "greeting".to_owned(),
            })?;
        let version = greeting_version(&line)?;

        let (commands, outgoing) = mpsc::channel(COMMAND_QUEUE);
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let connection = Connection {
            socket,
            lines,
            waiting: HashMap::new(),
            events: event_sender,
            lost: false,
        };
        let connection = tokio::spawn(connection.run(outgoing));
        let qmp = Self {
            commands,
            version,
            connection,
        };
        qmp.execute("qmp_capabilities", None).await?;
        Ok((qmp, events))
    }

    /// QEMU's version.
    #[must_use]
    pub fn version(&self) -> &QemuVersion {
        &self.version
    }

    /// Carries out a command and returns its `return` value. Several may be under way at once.
    ///
    /// # Errors
    /// [`QmpError`]; after `Closed` and `TimedOut` the state must be read before repeating.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Option<Value>,
    ) -> Result<Value, QmpError> {
        self.send(command, arguments, None).await
    }

    /// As [`Qmp::execute`], sending a descriptor along (`add-fd`, `getfd`).
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_with_descriptor(
        &self,
        command: &str,
        arguments: Value,
        descriptor: OwnedFd,
    ) -> Result<Value, QmpError> {
        self.send(command, Some(arguments), Some(descriptor)).await
    }

    async fn send(
        &self,
        name: &str,
        arguments: Option<Value>,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, QmpError> {
        let closed = || QmpError::Closed {
            command: name.to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        let outgoing = Outgoing {
            name: name.to_owned(),
            arguments,
            descriptor,
            answer,
        };
        let exchange = async {
            self.commands.send(outgoing).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(COMMAND_LIMIT, exchange)
            .await
            .map_err(|_| QmpError::TimedOut {
                command: name.to_owned(),
                limit: COMMAND_LIMIT,
            })?
    }
}

/// The task that owns the socket.
struct Connection {
    socket: UnixStream,
    lines: Lines,
    waiting: HashMap<u64, (String, oneshot::Sender<Result<Value, QmpError>>)>,
    events: mpsc::Sender<QmpEvent>,
    lost: bool,
}

impl Connection {
    /// Until QEMU or the owner closes. Those who still wait then see their answer's sender dropped, that is `Closed`.
    async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut next_id = 0u64;
        loop {
            tokio::select! {
                command = outgoing.recv() => {
                    let Some(command) = command else { return };
                    next_id += 1;
                    let mut request = json!({"execute": command.name, "id": next_id});
                    if let Some(arguments) = command.arguments {
                        request["arguments"] = arguments;
                    }
                    self.waiting.insert(next_id, (command.name, command.answer));
                    let mut bytes = request.to_string().into_bytes();
                    bytes.push(b'\n');
                    let written = write_all(&self.socket, &bytes, command.descriptor);
                    if !matches!(tokio::time::timeout(COMMAND_LIMIT, written).await, Ok(Ok(()))) {
                        return;
                    }
                }
                line = self.lines.next(&self.socket) => {
                    match line {
                        Ok(Some(line)) => self.take(&line),
                        Ok(None) | Err(_) => return,
                    }
                }
            }
        }
    }

    /// An answer goes to who waits for it, an event to the queue; anything else is of no use to us.
    fn take(&mut self, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Message>(line) else {
            tracing::warn!(line = %beginning(line), "not a QMP message");
            return;
        };
        if let Some(name) = message.event {
            let data = message.data.unwrap_or(Value::Null);
            if self.lost {
                if self.events.try_send(QmpEvent::Lost).is_err() {
                    return;
                }
                self.lost = false;
            }
            self.lost = self
                .events
                .try_send(QmpEvent::Happened { name, data })
                .is_err();
            return;
        }
        let waiting = message
            .id
            .as_ref()
            .and_then(Value::as_u64)
            .and_then(|id| self.waiting.remove(&id));
        let Some((command, answer)) = waiting else {
            return;
        };
        let result = match message.error {
            Some(error) => Err(QmpError::Refused {
                command,
                class: error.class,
                description: error.desc,
            }),
            None => Ok(message.result.unwrap_or(Value::Null)),
        };
        // Nobody listening any more (time-out) is fine.
        let _ = answer.send(result);
    }
}

#[derive(Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<ErrorBody>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct ErrorBody {
    class: String,
    desc: String,
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Deserialize)]
struct GreetingBody {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: GreetingNumbers,
}

#[derive(Deserialize)]
struct GreetingNumbers {
    major: u32,
    minor: u32,
    micro: u32,
}

fn greeting_version(line: &[u8]) -> Result<QemuVersion, QmpError> {
    let greeting: Greeting = serde_json::from_slice(line).map_err(|_| QmpError::Protocol {
        what: "greeting",
        text: beginning(line),
    })?;
    let GreetingNumbers {
        major,
        minor,
        micro,
    } = greeting.qmp.version.qemu;
    Ok(QemuVersion {
        major,
        minor,
        micro,
    })
}

fn beginning(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..200).unwrap_or(line)).into_owned()
}

/// Splits what comes into lines. Cancelling [`Lines::next`] loses nothing.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes of the buffer known to hold no line end.
    searched: usize,
}

impl Lines {
    /// The next line, `None` at the end.
    async fn next(&mut self, socket: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
            }
            socket.readable().await?;
            // A vector has room for as much again as is in it, and would be filled.
            match socket.try_read_buf(&mut (&mut self.buffer).limit(READ_BYTES)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let tail = self.buffer.get(self.searched..)?;
        let Some(end) = tail.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        Some(line)
    }
}

/// Writes all bytes; the descriptor travels with the first of them, and is closed on our side.
async fn write_all(
    socket: &UnixStream,
    mut bytes: &[u8],
    mut descriptor: Option<OwnedFd>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = socket
            .async_io(Interest::WRITABLE, || {
                send_some(socket, bytes, descriptor.as_ref())
            })
            .await?;
        descriptor = None;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(socket: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let passed = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(passed) = &passed
        && !ancillary.push(SendAncillaryMessage::ScmRights(passed))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(
        socket.as_fd(),
        &[io::IoSlice::new(bytes)],
        &mut ancillary,
        flags,
    )?)
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
