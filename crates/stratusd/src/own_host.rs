//! What the controller of machines of this computer tells beside documents: to the cloud's own rules, and on a host that has
//! joined to the entry that asks.

use std::{io, time::Duration};

use bytes::Bytes;
use cimi::MachineId;
use cloud::{ByteStream, CloudError, Console, ConsoleRange, MeterReading};
use documents::Documents;
use futures::{StreamExt as _, stream};
use vmhost::{
    controller::{ConsoleText, METER_INTERVAL, Reading, VmHost},
    serial::SerialFollower,
};

/// How often a console that is followed looks whether its machine is still there. Its text doesn't wait for this.
const STILL_THERE: Duration = Duration::from_secs(5);

/// The serial console of one of its machines.
pub async fn console(
    (host, documents): (&VmHost, &Documents),
    machine: &MachineId,
    range: ConsoleRange,
) -> cloud::Result<Console> {
    let found = host
        .console(machine, range.offset, range.last)
        .await
        .map_err(|error| CloudError::Internal(error.to_string()))?;
    let Some(ConsoleText { text, more }) = found else {
        // Nothing was written yet; who follows asks again.
        return Ok(Console {
            start: 0,
            content: Box::pin(stream::empty()),
        });
    };
    let start = text.position;
    let now = stream::iter((!text.bytes.is_empty()).then(|| Ok(Bytes::from(text.bytes))));
    let content: ByteStream = if range.follow {
        let (documents, local) = (documents.clone(), machine.local().to_owned());
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

/// As the rules take meters.
pub fn reading(of: Reading) -> MeterReading {
    MeterReading {
        aspect: of.aspect.name,
        units: of.aspect.units,
        interval_seconds: METER_INTERVAL.as_secs(),
        samples: of.samples,
    }
}

fn follow(more: SerialFollower) -> ByteStream {
    Box::pin(stream::unfold(Some(more), |more| async move {
        let mut more = more?;
        match more.next().await {
            Ok(text) => Some((Ok(Bytes::from(text.bytes)), Some(more))),
            // Its folder is gone, and so is the machine.
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    }))
}
