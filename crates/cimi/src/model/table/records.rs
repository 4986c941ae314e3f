//! Meters, and the logs of events.

use super::{
    Array, Boolean, DateTime, Decimal, Integer, Kind, Own, Ref, String, Struct, Type, Uri, can,
    seen, standard,
};

/// A meter of a machine or host; DSP0263 §5.14 of the meter family. Members of their resource's `meters`.
pub(super) const METER: Type = Type {
    collection: None,
    attributes: &[
        seen("targetResource", Ref(&[Kind::Machine, Kind::Host])),
        seen("aspect", Uri),
        seen("units", String),
        seen("sampleInterval", Integer),
        seen("timeScope", String),
        seen("isContinuous", Boolean),
        seen(
            "samples",
            Array(&Struct(&[
                seen("timestamp", DateTime),
                seen("value", Decimal),
            ])),
        ),
        seen("minValue", Decimal),
        seen("maxValue", Decimal),
    ],
    ..standard(Kind::Meter, "", "meters")
};

/// The events about one resource.
pub(super) const EVENT_LOG: Type = Type {
    capabilities: &[can(
        "Linked",
        "true",
        "a log goes with the resource that it is about",
    )],
    attributes: &[
        seen("targetResource", Ref(&[])),
        seen("events", Own(Kind::Event)),
        seen(
            "summary",
            Struct(&[
                seen("low", Integer),
                seen("medium", Integer),
                seen("high", Integer),
                seen("critical", Integer),
            ]),
        ),
    ],
    ..standard(Kind::EventLog, "eventLogs", "eventLogs")
};
