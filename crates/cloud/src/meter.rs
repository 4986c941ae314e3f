//! Meters: what machines and hosts used lately, as members of their `meters`. Their values are the controller's, which
//! keeps them; nothing of them is stored.

use std::sync::Arc;

use cimi::{MachineId, Right, model::Kind};
use serde_json::{Value, json};

use crate::{
    Cloud, CloudError, MeterReading, Metered, OpContext, Result, View, access,
    catalogue::{Plain, object},
};

/// Aspects are Stratus's own: the standard names none.
const ASPECT: &str = "http://stratuslab.eu/cimi/1/aspect/";

impl Cloud {
    /// The meters of a machine.
    ///
    /// # Errors
    /// [`CloudError::Unavailable`] if its host can't be asked.
    pub(crate) async fn meters_of_machine(
        &self,
        id: &MachineId,
        right: Right,
    ) -> Result<Vec<View>> {
        let readings = self.0.hosts.meters(Metered::Machine(id)).await?;
        Ok(views(&id.to_string(), right, &readings))
    }

    /// The meters of a host.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for all but administrators, [`CloudError::Unavailable`] if the host can't be asked.
    pub(crate) async fn host_members(&self, context: &OpContext, id: &str) -> Result<Vec<View>> {
        access::require_user(context)?;
        let missing = || CloudError::not_found(format!("Host/{id}"));
        if !context.is_admin() {
            return Err(missing());
        }
        let host = self.0.documents.hosts.get(id).ok_or_else(missing)?;
        let readings = self
            .0
            .hosts
            .meters(Metered::Host(&host.document.id))
            .await?;
        Ok(views(&host.document.id.to_string(), Right::View, &readings))
    }
}

fn views(target: &str, right: Right, readings: &[MeterReading]) -> Vec<View> {
    let of = |reading| view(target, right, reading);
    readings.iter().map(of).collect()
}

fn view(target: &str, right: Right, reading: &MeterReading) -> View {
    let values = || reading.samples.iter().map(|(_, value)| *value);
    // Three digits after the point are more than any clock here is good for.
    let shown = |value: f64| json!((value * 1000.0).round() / 1000.0);
    let samples: Vec<Value> = reading
        .samples
        .iter()
        .map(|(at, value)| json!({"timestamp": at, "value": shown(*value)}))
        .collect();
    let mut attributes = object(json!({
        "name": reading.aspect,
        "targetResource": {"href": target},
        "aspect": format!("{ASPECT}{}", reading.aspect),
        "units": reading.units,
        "sampleInterval": reading.interval_seconds,
        "timeScope": "POINT",
        "isContinuous": true,
        "samples": samples,
    }));
    if let (Some(least), Some(most)) = (values().reduce(f64::min), values().reduce(f64::max)) {
        attributes.insert("minValue".to_owned(), shown(least));
        attributes.insert("maxValue".to_owned(), shown(most));
    }
    View {
        kind: Kind::Meter,
        id: format!("{target}/meters/{}", reading.aspect).into(),
        stamp: None,
        right,
        document: Arc::new(Plain {
            attributes,
            operations: Vec::new(),
        }),
    }
}
