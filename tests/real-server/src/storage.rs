//! The server's session storage. A test can hold back its checkpoint writes.

use async_trait::async_trait;
use stakpak_api::{
    BackendInfo, Checkpoint, CreateCheckpointRequest, CreateSessionResult, ListCheckpointsQuery,
    ListCheckpointsResult, ListSessionsQuery, ListSessionsResult, LocalStorage, Session, SessionStorage,
    StorageCreateSessionRequest, StorageError, StorageUpdateSessionRequest,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use uuid::Uuid;

use crate::{Gate, eventually};

/// Holds back the server's checkpoint writes while a test wants it. Clones share one state.
#[derive(Clone)]
pub struct StorageGate {
    gate: Gate,
    held: Arc<AtomicUsize>,
}

impl Default for StorageGate {
    fn default() -> Self {
        let gate = Gate::shut();
        gate.open();
        Self { gate, held: Arc::default() }
    }
}

impl StorageGate {
    /// Holds back every checkpoint write from now on.
    pub fn hold(&self) {
        self.held.store(0, Ordering::SeqCst);
        self.gate.close();
    }

    /// Waits until the server tries to write. It writes a changed session every five seconds.
    pub fn wait_for_a_write(&self) {
        eventually("a write", || (self.held.load(Ordering::SeqCst) > 0).then_some(()));
    }

    /// Lets all writes pass again.
    pub fn release(&self) {
        self.gate.open();
    }
}

/// Local storage behind a [`StorageGate`].
pub(crate) struct Gated {
    storage: LocalStorage,
    gate: Option<StorageGate>,
}

impl Gated {
    pub(crate) fn new(storage: LocalStorage, gate: Option<StorageGate>) -> Self {
        Self { storage, gate }
    }
}

#[async_trait]
impl SessionStorage for Gated {
    fn backend_info(&self) -> BackendInfo {
        self.storage.backend_info()
    }

    async fn list_sessions(&self, query: &ListSessionsQuery) -> Result<ListSessionsResult, StorageError> {
        self.storage.list_sessions(query).await
    }

    async fn get_session(&self, session: Uuid) -> Result<Session, StorageError> {
        self.storage.get_session(session).await
    }

    async fn create_session(
        &self,
        request: &StorageCreateSessionRequest,
    ) -> Result<CreateSessionResult, StorageError> {
        self.storage.create_session(request).await
    }

    async fn update_session(
        &self,
        session: Uuid,
        request: &StorageUpdateSessionRequest,
    ) -> Result<Session, StorageError> {
        self.storage.update_session(session, request).await
    }

    async fn delete_session(&self, session: Uuid) -> Result<(), StorageError> {
        self.storage.delete_session(session).await
    }

    async fn list_checkpoints(
        &self,
        session: Uuid,
        query: &ListCheckpointsQuery,
    ) -> Result<ListCheckpointsResult, StorageError> {
        self.storage.list_checkpoints(session, query).await
    }

    async fn get_checkpoint(&self, checkpoint: Uuid) -> Result<Checkpoint, StorageError> {
        self.storage.get_checkpoint(checkpoint).await
    }

    async fn create_checkpoint(
        &self,
        session: Uuid,
        request: &CreateCheckpointRequest,
    ) -> Result<Checkpoint, StorageError> {
        if let Some(gate) = &self.gate {
            gate.held.fetch_add(1, Ordering::SeqCst);
            gate.gate.passed().await;
        }
        self.storage.create_checkpoint(session, request).await
    }
}
