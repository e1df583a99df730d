//! How long finished responses and unused conversations are stored, by tenant.

use std::{collections::HashMap, sync::Arc, time::Duration};

/// The retention of all tenants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Retention {
    /// The retention of tenants without one of their own.
    pub default: Duration,
    pub tenants: Arc<HashMap<String, Duration>>,
    /// How long responses with `store: false` are stored after their end.
    pub resume_window: Duration,
}

impl Retention {
    /// Returns the retention of a tenant.
    pub fn stored(&self, tenant: &str) -> Duration {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }

    /// Returns the retention of a response. `store`: as in the request.
    pub fn response(&self, tenant: &str, store: bool) -> Duration {
        if store { self.stored(tenant) } else { self.resume_window }
    }

    /// Returns the longest retention of any tenant.
    pub fn longest(&self) -> Duration {
        self.tenants.values().copied().fold(self.default, Duration::max)
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        let minute = Duration::from_secs(60);
        Self { default: minute, tenants: Arc::default(), resume_window: minute }
    }
}
