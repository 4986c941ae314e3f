//! An audit log that a test looks into.

use serde_json::Value;

/// Remembers what was written down.
#[derive(Default)]
pub struct Recorder(pub std::sync::Mutex<Vec<doors::Audited>>);

#[async_trait::async_trait]
impl doors::AuditLog for Recorder {
    async fn record(&self, what: doors::Audited) {
        self.0.lock().unwrap().push(what);
    }

    async fn last(&self, _most: usize, _user: Option<&str>) -> std::io::Result<Vec<Value>> {
        Ok(Vec::new())
    }
}
