//! What an entry asks hosts that have joined, and what becomes of their answers. A host is believed nothing but what it says of
//! itself: names of meters are ours, and its findings are told as its.

use std::{error::Error as _, fmt, io, time::Instant};

use cimi::{HostId, MachineId, Timestamp, resources::EventSeverity};
use cloud::{ByteStream, CloudError, Console, ConsoleRange, MeterReading};
use documents::Documents;
use doors::{CallError, HostCalls, Meetings};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use http::{StatusCode, header};
use http_body_util::BodyDataStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::elsewhere::{DisksElsewhere, GivenDisk, NoDisk};
use vmhost::controller::{ASPECTS, METER_INTERVAL, Reading};

use crate::joined_host::AWAY_AT_MOST;

/// Where a console begins that was asked for.
pub const CONSOLE_START: &str = "x-console-start";
/// Samples of a meter at most: what hosts keep, and more.
const SAMPLES_AT_MOST: usize = 1000;
/// Findings of one host, and characters of each of their texts.
const FINDINGS_AT_MOST: usize = 1000;
const FINDING_CHARACTERS: usize = 2000;
/// Hosts that are examined at once.
const EXAMINED_AT_ONCE: usize = 16;

/// A question to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The console of a machine, as text.
    Console(MachineId, ConsoleRange),
    /// What a machine used lately: [`Meters`].
    MetersOf(MachineId),
    /// What the host used lately: [`Meters`].
    Meters,
    /// The files of a machine that has left it, packed.
    Files(MachineId),
    /// The root disk of a machine that is off, to be saved.
    Disk(MachineId),
    /// What is there without belonging to a document, and what a document has that isn't there: [`Finding`]s. Changes nothing.
    Examine,
}

/// The meters that have values, by the names of their aspects.
pub type Meters = Vec<(String, Vec<(Timestamp, f64)>)>;

/// As [`vmhost::controller::Finding`], from somewhere else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    kind: String,
    what: String,
    detail: String,
    repair: String,
    severity: EventSeverity,
}

impl Question {
    /// The path and query that ask it.
    pub fn path(&self) -> String {
        match self {
            Self::Console(machine, range) => {
                let number = |name: &str, value: Option<u64>| {
                    value.map_or_else(String::new, |value| format!("{name}={value}&"))
                };
                format!(
                    "/machines/{}/console?{}{}follow={}",
                    machine.local(),
                    number("offset", range.offset),
                    number("last", range.last),
                    range.follow
                )
            }
            Self::MetersOf(machine) => format!("/machines/{}/meters", machine.local()),
            Self::Files(machine) => format!("/machines/{}/files", machine.local()),
            Self::Disk(machine) => format!("/machines/{}/disk", machine.local()),
            Self::Meters => "/meters".to_owned(),
            Self::Examine => "/findings".to_owned(),
        }
    }

    /// What a path and query ask; none if nothing is asked so.
    pub fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let machine = |local: &str| MachineId::from_local(local).ok();
        match parts[..] {
            ["meters"] => Some(Self::Meters),
            ["findings"] => Some(Self::Examine),
            ["machines", local, "files"] => Some(Self::Files(machine(local)?)),
            ["machines", local, "disk"] => Some(Self::Disk(machine(local)?)),
            ["machines", local, "meters"] => Some(Self::MetersOf(machine(local)?)),
            ["machines", local, "console"] => {
                let mut range = ConsoleRange::default();
                for (name, value) in query?.split('&').filter_map(|pair| pair.split_once('=')) {
                    match name {
                        "offset" => range.offset = Some(value.parse().ok()?),
                        "last" => range.last = Some(value.parse().ok()?),
                        "follow" => range.follow = value.parse().ok()?,
                        _ => {}
                    }
                }
                Some(Self::Console(machine(local)?, range))
            }
            _ => None,
        }
    }
}

/// As they are sent.
pub fn sent(readings: Vec<Reading>) -> Meters {
    let of_one = |reading: Reading| (reading.aspect.name.to_owned(), reading.samples);
    readings.into_iter().map(of_one).collect()
}

/// The hosts elsewhere, as the rules see them.
#[derive(Clone)]
pub struct Elsewhere {
    pub documents: Documents,
    pub calls: HostCalls,
    pub meetings: Meetings,
    /// Since when hosts can connect here.
    pub began: Instant,
}

impl Elsewhere {
    /// The console of a machine on that host.
    pub async fn console(
        &self,
        host: &HostId,
        machine: &MachineId,
        range: ConsoleRange,
    ) -> cloud::Result<Console> {
        let question = Question::Console(machine.clone(), range);
        let asked = self.calls.follow(host, &question.path()).await;
        let (answer, turn) = asked.map_err(|error| self.unreachable(host, &question, &error))?;
        let start = answer.headers().get(CONSOLE_START);
        let start = start.and_then(|text| text.to_str().ok()?.parse().ok());
        let content = BodyDataStream::new(answer.into_body());
        Ok(Console {
            start: start.unwrap_or(0),
            content: Box::pin(content.map(move |piece| {
                let _held = &turn;
                piece.map_err(io::Error::other)
            })),
        })
    }

    /// The answer to a question about meters.
    pub async fn meters(
        &self,
        host: &HostId,
        question: Question,
    ) -> cloud::Result<Vec<MeterReading>> {
        let told: Result<Meters, _> = self.calls.read(host, &question.path()).await;
        let told = told.map_err(|error| self.unreachable(host, &question, &error))?;
        // In our order, and no others than ours.
        let of_ours = ASPECTS.iter().filter_map(|aspect| {
            let (_, samples) = told.iter().find(|(name, _)| name == aspect.name)?;
            let surplus = samples.len().saturating_sub(SAMPLES_AT_MOST);
            Some(MeterReading {
                aspect: aspect.name,
                units: aspect.units,
                interval_seconds: METER_INTERVAL.as_secs(),
                samples: samples.get(surplus..)?.to_vec(),
            })
        });
        Ok(of_ours.collect())
    }

    /// The files of a machine that has left that host, packed.
    pub async fn files(&self, host: &HostId, machine: &MachineId) -> cloud::Result<ByteStream> {
        let question = Question::Files(machine.clone());
        let answer = self.calls.get(host, &question.path()).await;
        let answer = answer.map_err(|error| self.unreachable(host, &question, &error))?;
        let content = BodyDataStream::new(answer.into_body());
        Ok(Box::pin(
            content.map(|piece| piece.map_err(io::Error::other)),
        ))
    }

    /// What hosts that have joined find with themselves, those that should be there.
    pub async fn findings(&self) -> Vec<Value> {
        let hosts = self.documents.hosts.all();
        let joined = hosts
            .into_iter()
            .filter(|host| host.has_joined() && host.runs_machines());
        let asked = stream::iter(joined.map(|host| host.document.id.clone()))
            .map(|host| async move {
                let told: Result<Vec<Finding>, _> =
                    self.calls.read(&host, &Question::Examine.path()).await;
                match told {
                    Ok(findings) => self.told_by(&host, findings),
                    Err(error) => vec![self.not_examined(&host, &error)],
                }
            })
            .buffered(EXAMINED_AT_ONCE);
        asked.concat().await
    }

    fn told_by(&self, host: &HostId, findings: Vec<Finding>) -> Vec<Value> {
        let name = self.name(host);
        let short = |text: &str| text.chars().take(FINDING_CHARACTERS).collect::<String>();
        let of_one = |finding: Finding| {
            json!({
                "kind": short(&finding.kind),
                "what": format!("{name}: {}", short(&finding.what)),
                "detail": short(&finding.detail),
                "repair": short(&finding.repair),
                "severity": finding.severity,
                "host": host.to_string(),
            })
        };
        let findings = findings.into_iter().take(FINDINGS_AT_MOST);
        findings.map(of_one).collect()
    }

    fn not_examined(&self, host: &HostId, error: &CallError) -> Value {
        let waited = self.began.elapsed();
        if matches!(error, CallError::NotConnected) && waited < AWAY_AT_MOST {
            return json!({
                "kind": "host",
                "what": self.name(host),
                "detail": format!(
                    "the host was not examined yet: this entry began {} s ago, and hosts come back to it within {} s",
                    waited.as_secs(),
                    AWAY_AT_MOST.as_secs()
                ),
                "repair": "ask again in a moment",
                "severity": EventSeverity::Low,
                "host": host.to_string(),
            });
        }
        json!({
            "kind": "host",
            "what": self.name(host),
            "detail": format!("the host was not examined: {error}"),
            "repair": "see that stratusd runs on it and reaches this entry (stratus host show)",
            "severity": EventSeverity::Medium,
            "host": host.to_string(),
        })
    }

    fn unreachable(&self, host: &HostId, question: &Question, error: &CallError) -> CloudError {
        let name = self.name(host);
        let meanwhile = match question {
            Question::Console(..) | Question::MetersOf(_) => "; the machine runs on meanwhile",
            Question::Files(_) | Question::Disk(_) | Question::Meters | Question::Examine => "",
        };
        CloudError::Unavailable(format!(
            "the host {name} can't be asked just now: {error}{meanwhile}"
        ))
    }

    fn name(&self, host: &HostId) -> String {
        let known = self.documents.hosts.get(host.local());
        let name = known.and_then(|known| known.common.name.clone());
        name.unwrap_or_else(|| host.local().to_owned())
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Elsewhere")
    }
}

impl DisksElsewhere for Elsewhere {
    fn disk<'a>(
        &'a self,
        host: &'a HostId,
        machine: &'a MachineId,
    ) -> BoxFuture<'a, Result<GivenDisk, NoDisk>> {
        async move {
            let question = Question::Disk(machine.clone());
            let name = self.name(host);
            let answer = match self.calls.get(host, &question.path()).await {
                Ok(answer) => answer,
                Err(CallError::Refused(StatusCode::NOT_FOUND)) => {
                    return Err(NoDisk::NotNow(format!(
                        "its host {name} doesn't know yet that it is off, or runs a stratusd that is too old to give its disk"
                    )));
                }
                Err(CallError::Refused(StatusCode::INTERNAL_SERVER_ERROR)) => {
                    return Err(unreadable(&name));
                }
                Err(CallError::Refused(StatusCode::SERVICE_UNAVAILABLE)) => {
                    return Err(NoDisk::NotNow(format!(
                        "its host {name} can't read the machine's disk for now: its log says why"
                    )));
                }
                Err(error) => {
                    let why = self.unreachable(host, &question, &error).to_string();
                    return Err(NoDisk::NotNow(why));
                }
            };
            let length = answer.headers().get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            let length = length.ok_or_else(|| {
                NoDisk::NotNow(format!("its host {name} says not how long it is"))
            })?;
            let content = BodyDataStream::new(answer.into_body());
            let from = name.clone();
            Ok(GivenDisk {
                host: name,
                length,
                content: Box::pin(content.map_err(move |error| match gave_up(&error) {
                    true => io::Error::other(unreadable(&from)),
                    false => io::Error::other(error),
                })),
            })
        }
        .boxed()
    }
}

fn unreadable(host: &str) -> NoDisk {
    NoDisk::Unreadable(format!(
        "its host {host} can't read the machine's disk: its log says why"
    ))
}

/// How a host tells that it can't go on with a disk: as one that was cut off, if that passes, so that it is asked again.
pub fn broken_off(error: io::Error) -> io::Error {
    let why = error.get_ref().and_then(|why| why.downcast_ref());
    match why {
        Some(NoDisk::NotNow(why)) => io::Error::other(ForNow {
            why: why.clone(),
            reset: h2::Reason::CANCEL.into(),
        }),
        _ => error,
    }
}

/// By this the stream is reset so; by other errors with [`h2::Reason::INTERNAL_ERROR`].
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct ForNow {
    why: String,
    #[source]
    reset: h2::Error,
}

/// Whether a host says that it can't go on with what it was sending: nothing is wrong with the connection.
fn gave_up(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|error| error.downcast_ref());
    error.is_some_and(|error: &h2::Error| {
        error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::INTERNAL_ERROR)
    })
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::{
        body::{Frame, Incoming},
        service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_host_that_is_away_from_an_entry_that_has_just_begun_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let mut host = cimi::testing::host();
        (host.runs_machines, host.desired.apart) = (true, true);
        documents.changes().create(&host).commit().await.unwrap();
        let mut elsewhere = Elsewhere {
            documents,
            calls: HostCalls::default(),
            meetings: Meetings::default(),
            began: Instant::now(),
        };
        for (severity, told) in [
            (EventSeverity::Low, "not examined yet: this entry began "),
            (
                EventSeverity::Medium,
                "not examined: it is not connected to this entry",
            ),
        ] {
            let findings = elsewhere.findings().await;
            let [finding] = findings.as_slice() else {
                panic!("{findings:?}");
            };
            let detail = finding["detail"].as_str().unwrap();
            assert!(detail.contains(told), "{detail}");
            assert_eq!(finding["severity"], json!(severity));
            elsewhere.began -= AWAY_AT_MOST;
        }
    }

    #[test]
    fn a_question_is_understood_as_it_was_asked() {
        let machine = || MachineId::generate();
        let range = |offset, last, follow| ConsoleRange {
            offset,
            last,
            follow,
        };
        for question in [
            Question::Console(machine(), range(None, None, false)),
            Question::Console(machine(), range(Some(7), None, true)),
            Question::Console(machine(), range(None, Some(80), true)),
            Question::MetersOf(machine()),
            Question::Files(machine()),
            Question::Disk(machine()),
            Question::Meters,
            Question::Examine,
        ] {
            let path = question.path();
            let (path, query) = match path.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (path.as_str(), None),
            };
            assert_eq!(Question::of(path, query), Some(question));
        }
        for nothing in [
            "",
            "/",
            "/machines",
            "/machines//meters",
            "/meters/",
            "/findings/1",
        ] {
            assert_eq!(Question::of(nothing, None), None, "{nothing}");
        }
    }

    /// How an answer ends that began, as who asked sees it; it breaks off with this error, or is cut.
    async fn end_of_one(breaks: Option<io::Error>) -> hyper::Error {
        let begun = Arc::new(Notify::new());
        let part = stream::iter([Ok(Frame::data(Bytes::from_static(b"a part")))]);
        let bad = Arc::clone(&begun);
        let is_cut = breaks.is_none();
        let broken = stream::once(async move {
            bad.notified().await;
            Err(broken_off(breaks.unwrap()))
        });
        let body = StreamBody::new(part.chain(broken)).boxed_unsync();
        let (here, there) = tokio::io::duplex(1 << 16);
        let body = Mutex::new(Some(body));
        let service = service_fn(move |_: Request<Incoming>| {
            let body = body.lock().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let host = tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(there), service),
        );
        let (mut asking, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(here))
                .await
                .unwrap();
        tokio::spawn(connection);
        let question = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        let answer = asking.send_request(question).await.unwrap();
        let mut content = BodyDataStream::new(answer.into_body());
        assert_eq!(content.next().await.unwrap().unwrap(), "a part");
        match is_cut {
            true => host.abort(),
            false => begun.notify_one(),
        }
        content.next().await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn a_host_that_cannot_read_on_is_told_from_one_that_is_cut_off_or_can_later() {
        let unreadable = NoDisk::Unreadable("a bad sector".to_owned());
        for broken in [io::Error::other(unreadable), io::Error::other("a bug")] {
            let error = end_of_one(Some(broken)).await;
            assert!(gave_up(&error), "{error:?}");
        }
        let error = end_of_one(None).await;
        assert!(!gave_up(&error), "{error:?}");
        let passes = NoDisk::NotNow("too many open files".to_owned());
        let error = end_of_one(Some(io::Error::other(passes))).await;
        assert!(!gave_up(&error), "{error:?}");
    }
}
