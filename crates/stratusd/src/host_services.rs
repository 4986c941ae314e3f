//! What the rules ask of this host beside documents: consoles, and what is really there.

use std::{io, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use cimi::MachineId;
use cloud::{ByteStream, Check, CloudError, Console, ConsoleRange, HostServices};
use documents::Documents;
use futures::{Stream, StreamExt as _, stream};
use serde_json::Value;
use vmhost::controller::{ConsoleText, VmHost};

/// How often a console that is followed looks whether its machine is still there. Its text doesn't wait for this.
const STILL_THERE: std::time::Duration = std::time::Duration::from_secs(5);

/// The VM host controller of this process, as the rules see it.
pub struct LocalHost {
    host: VmHost,
    documents: Documents,
}

impl LocalHost {
    /// Over the controller of this process.
    #[must_use]
    pub fn new(host: VmHost, documents: Documents) -> Self {
        Self { host, documents }
    }
}

#[async_trait]
impl HostServices for LocalHost {
    async fn console(&self, machine: &MachineId, range: ConsoleRange) -> cloud::Result<Console> {
        let found = self
            .host
            .console(machine, range.offset, range.last)
            .await
            .map_err(|error| CloudError::Internal(error.to_string()))?;
        let Some(ConsoleText { text, more }) = found else {
            // Nothing was written yet; who follows asks again.
            return Ok(Console { start: 0, content: Box::pin(stream::empty()) });
        };
        let start = text.position;
        let now = stream::iter((!text.bytes.is_empty()).then(|| Ok(Bytes::from(text.bytes))));
        let content: ByteStream = if range.follow {
            let (documents, local) = (self.documents.clone(), machine.local().to_owned());
            let gone = async move {
                while documents.machines.get(&local).is_some() {
                    tokio::time::sleep(STILL_THERE).await;
                }
            };
            Box::pin(now.chain(follow(more).take_until(gone)))
        } else {
            Box::pin(now)
        };
        Ok(Console { start, content })
    }

    async fn doctor(&self, repair: bool) -> cloud::Result<Vec<Value>> {
        let findings = self.host.audit(repair).await;
        findings
            .iter()
            .map(|finding| serde_json::to_value(finding).map_err(|error| CloudError::Internal(error.to_string())))
            .collect()
    }

    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

/// What the guest writes, as it writes it.
fn follow(more: vmhost::serial::SerialFollower) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
    Box::pin(stream::unfold(Some(more), |more| async move {
        let mut more = more?;
        match more.next().await {
            Ok(text) => Some((Ok(Bytes::from(text.bytes)), Some(more))),
            // Its folder is gone, and so is the machine.
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    }))
}
