//! Leases: what containerd's garbage collector must not take while it is being put together.

use std::collections::BTreeMap;
use std::time::Duration;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, Lease, ListRequest as ListLeasesRequest,
    Resource,
};
use jiff::Timestamp;
use tonic::Code;

use super::connect::Api;
use super::{Engine, EngineError};

/// containerd removes a lease by itself after this time, RFC 3339.
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

impl Engine {
    fn leases_client(&self) -> LeasesClient<Api> {
        LeasesClient::new(self.api())
    }

    /// Makes a lease that ends by itself after `expires`.
    pub async fn create_lease(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
        expires: Duration,
    ) -> Result<(), EngineError> {
        let mut labels = super::to_map(labels);
        let end = Timestamp::now()
            .checked_add(expires)
            .unwrap_or(Timestamp::MAX);
        labels.insert(EXPIRE_LABEL.into(), end.to_string());
        let request = CreateRequest {
            id: id.into(),
            labels,
        };
        let what = format!("lease `{id}`");
        self.leases_client()
            .create(request)
            .await
            .map_err(|status| self.failed_on(&format!("create {what}"), &what, &status))?;
        Ok(())
    }

    /// Has `lease` hold a blob, even before it is there.
    pub async fn hold_content(&self, lease: &str, digest: &str) -> Result<(), EngineError> {
        let request = AddResourceRequest {
            id: lease.into(),
            resource: Some(Resource {
                id: digest.into(),
                r#type: "content".into(),
            }),
        };
        let what = format!("lease `{lease}`");
        match self.leases_client().add_resource(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(self.failed_on(&format!("add to {what}"), &what, &status)),
        }
    }

    /// Not an error if it is gone.
    pub async fn delete_lease(&self, id: &str) -> Result<(), EngineError> {
        self.end_lease(id, false).await
    }

    /// Ids and labels of leases that match one of `filters`, as `labels."a"==b`; all if empty.
    pub async fn leases(
        &self,
        filters: &[String],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, EngineError> {
        let request = ListLeasesRequest {
            filters: filters.to_vec(),
        };
        let answer = self
            .leases_client()
            .list(request)
            .await
            .map_err(|status| self.failed("list leases", &status))?;
        let describe = |lease: Lease| (lease.id, lease.labels.into_iter().collect());
        Ok(answer
            .into_inner()
            .leases
            .into_iter()
            .map(describe)
            .collect())
    }

    /// Has containerd remove now what nothing refers to; by itself it waits for some hundred changes.
    pub async fn collect_garbage(&self) -> Result<(), EngineError> {
        // It only exists to be deleted. There is one, so that the next asker deletes what a killed one has left.
        const LEASE: &str = "compose-gc";
        match self
            .create_lease(LEASE, &BTreeMap::new(), Duration::from_mins(1))
            .await
        {
            Err(EngineError::AlreadyExists { .. }) => {}
            result => result?,
        }
        self.end_lease(LEASE, true).await
    }

    async fn end_lease(&self, id: &str, sync: bool) -> Result<(), EngineError> {
        let request = DeleteRequest {
            id: id.into(),
            sync,
        };
        match self.leases_client().delete(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(self.failed(&format!("delete lease `{id}`"), &status)),
        }
    }
}
