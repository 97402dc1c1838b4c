//! The event stream, resubscribed for ever.

use std::time::Duration;

use containerd_client::events::{
    ContainerCreate, ContainerDelete, ContainerUpdate, NamespaceUpdate, TaskCreate, TaskDelete,
    TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use jiff::Timestamp;
use prost::{Message, Name};
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::connect::{Api, MESSAGE_LIMIT};
use super::{Engine, Event};

/// Events that may wait for a slow reader; then containerd's own queue fills.
const BUFFER: usize = 1024;
const MARKER_TOPIC: &str = "/compose/subscribed";
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
const FIRST_MARKER_PAUSE: Duration = Duration::from_millis(5);
const LAST_MARKER_PAUSE: Duration = Duration::from_secs(1);

impl Engine {
    /// Events from now on; begins with [`Event::Subscribed`], reconnects for ever, ends when the receiver is dropped.
    pub fn subscribe(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(follow(self.clone(), sender));
        receiver
    }

    fn events_client(&self) -> EventsClient<Api> {
        EventsClient::new(self.api()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

async fn follow(engine: Engine, sender: mpsc::Sender<Event>) {
    let mut backoff = FIRST_BACKOFF;
    while !sender.is_closed() {
        // Dropping the half-made subscription or the stream ends it at containerd, too.
        let opened = tokio::select! {
            opened = open(&engine) => opened,
            () = sender.closed() => return,
        };
        match opened {
            Ok(stream) => {
                backoff = FIRST_BACKOFF;
                let ended = forward(stream, &sender).await;
                tracing::debug!(?ended, "the event stream ended");
            }
            Err(status) => tracing::debug!(%status, "cannot subscribe to events"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => backoff = LAST_BACKOFF.min(backoff * 2),
            () = sender.closed() => return,
        }
    }
}

/// Subscribes. containerd answers no sooner than with the first event, so we publish markers until it does.
async fn open(engine: &Engine) -> Result<Streaming<Envelope>, Status> {
    let namespace = engine.namespace();
    let topics = ["^/tasks/", "^/containers/", "^/compose/subscribed$"];
    let filters = topics
        .map(|topic| format!("namespace=={namespace:?},topic~={topic:?}"))
        .to_vec();
    let mut subscriber = engine.events_client();
    let publish = async {
        let marker = NamespaceUpdate {
            name: namespace.into(),
            ..NamespaceUpdate::default()
        };
        let request = PublishRequest {
            topic: MARKER_TOPIC.into(),
            event: Some(Any {
                type_url: NamespaceUpdate::full_name(),
                value: marker.encode_to_vec(),
            }),
        };
        let mut publisher = engine.events_client();
        let mut pause = FIRST_MARKER_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = LAST_MARKER_PAUSE.min(pause * 2);
            if let Err(status) = publisher.publish(request.clone()).await {
                // The subscription meets the same trouble and reports it.
                tracing::trace!(%status, "cannot publish the marker");
            }
        }
    };
    tokio::select! {
        answer = subscriber.subscribe(SubscribeRequest { filters }) => Ok(answer?.into_inner()),
        never = publish => never,
    }
}

/// Passes events on until the stream or the reader ends.
async fn forward(mut stream: Streaming<Envelope>, sender: &mpsc::Sender<Event>) -> Option<Status> {
    if sender.send(Event::Subscribed).await.is_err() {
        return None;
    }
    loop {
        let message = tokio::select! {
            // Cancelled only when nobody reads any more.
            message = stream.message() => message,
            () = sender.closed() => return None,
        };
        match message {
            Ok(Some(envelope)) => {
                if let Some(event) = decode(&envelope)
                    && sender.send(event).await.is_err()
                {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

/// The events that [`Event`] names; `None` for others and for what cannot be read.
fn decode(envelope: &Envelope) -> Option<Event> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let event = match envelope.topic.as_str() {
        "/tasks/create" => {
            let event: TaskCreate = read(bytes)?;
            Event::TaskCreated {
                id: event.container_id,
            }
        }
        "/tasks/start" => {
            let event: TaskStart = read(bytes)?;
            Event::TaskStarted {
                id: event.container_id,
                pid: event.pid,
            }
        }
        "/tasks/exit" => {
            let event: TaskExit = read(bytes)?;
            let at = event.exited_at.as_ref().and_then(super::to_timestamp);
            Event::TaskExited {
                exec_id: if event.id.is_empty() {
                    event.container_id.clone()
                } else {
                    event.id
                },
                id: event.container_id,
                pid: event.pid,
                exit_code: event.exit_status,
                at: at.unwrap_or_else(Timestamp::now),
            }
        }
        "/tasks/exec-started" => {
            let event: TaskExecStarted = read(bytes)?;
            Event::ExecStarted {
                id: event.container_id,
                exec_id: event.exec_id,
            }
        }
        "/tasks/exec-added" => {
            let event: TaskExecAdded = read(bytes)?;
            Event::ExecAdded {
                id: event.container_id,
                exec_id: event.exec_id,
            }
        }
        "/tasks/delete" => {
            let event: TaskDelete = read(bytes)?;
            // A removed exec process is told by the same topic.
            if !event.id.is_empty() && event.id != event.container_id {
                return None;
            }
            Event::TaskDeleted {
                id: event.container_id,
            }
        }
        "/tasks/paused" => {
            let event: TaskPaused = read(bytes)?;
            Event::TaskPaused {
                id: event.container_id,
            }
        }
        "/tasks/resumed" => {
            let event: TaskResumed = read(bytes)?;
            Event::TaskResumed {
                id: event.container_id,
            }
        }
        "/tasks/oom" => {
            let event: TaskOom = read(bytes)?;
            Event::OutOfMemory {
                id: event.container_id,
            }
        }
        "/containers/create" => Event::ContainerCreated {
            id: read::<ContainerCreate>(bytes)?.id,
        },
        "/containers/update" => Event::ContainerUpdated {
            id: read::<ContainerUpdate>(bytes)?.id,
        },
        "/containers/delete" => Event::ContainerDeleted {
            id: read::<ContainerDelete>(bytes)?.id,
        },
        _ => return None,
    };
    Some(event)
}

fn read<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes)
        .inspect_err(|error| tracing::warn!(%error, "an event of containerd is unreadable"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, event: &impl Message) -> Envelope {
        Envelope {
            topic: topic.into(),
            event: Some(Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
            ..Envelope::default()
        }
    }

    #[test]
    fn the_exit_of_the_first_process_bears_the_id_of_its_container() {
        let exit = TaskExit {
            container_id: "a".into(),
            exit_status: 3,
            ..TaskExit::default()
        };
        let event = decode(&envelope("/tasks/exit", &exit));
        assert!(matches!(
            event,
            Some(Event::TaskExited { id, exec_id, exit_code: 3, .. }) if id == "a" && exec_id == "a"
        ));
    }

    #[test]
    fn the_removal_of_an_exec_process_is_not_the_removal_of_the_task() {
        let mut delete = TaskDelete {
            container_id: "a".into(),
            id: "exec".into(),
            ..TaskDelete::default()
        };
        assert_eq!(decode(&envelope("/tasks/delete", &delete)), None);
        delete.id.clear();
        assert!(decode(&envelope("/tasks/delete", &delete)).is_some());
    }

    #[test]
    fn markers_and_broken_messages_are_dropped() {
        assert_eq!(decode(&envelope(MARKER_TOPIC, &TaskExit::default())), None);
        let broken = Envelope {
            topic: "/tasks/exit".into(),
            event: Some(Any {
                type_url: String::new(),
                value: vec![0xff; 3],
            }),
            ..Envelope::default()
        };
        assert_eq!(decode(&broken), None);
    }
}
