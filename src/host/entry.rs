//! What a log entry holds, taken from an event of `tracing` and the spans around it: for every place
//! that needs the fields one by one.

use std::borrow::Cow;
use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Subscriber};
use tracing_log::{AsLog, NormalizeEvent};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// One entry of the log.
#[derive(Debug)]
pub(super) struct Entry {
    /// What [`super::events`] knows it by, if it does.
    pub(super) name: &'static str,
    pub(super) level: log::Level,
    pub(super) target: Cow<'static, str>,
    pub(super) file: Option<&'static str>,
    pub(super) line: Option<u32>,
    pub(super) message: String,
    pub(super) fields: Fields,
}

/// Names and values; also what a span keeps for the events in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(pub(super) Vec<(&'static str, String)>);

/// The layer that keeps the fields of spans for [`Entry::of`]. It stands before the layers that
/// use that, once.
#[derive(Debug)]
pub(super) struct SpanFields;

impl Entry {
    /// The event with the fields of the spans around it, those of the event first.
    pub(super) fn of<S>(event: &Event<'_>, ctx: &Context<'_, S>) -> Self
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(more) = span.extensions().get::<Fields>() {
                fields.0.extend(more.0.iter().cloned());
            }
        }
        let meta = event.metadata();
        // Set for records that came through the `log` crate; their own metadata is not static.
        let normal = event.normalized_metadata();
        Self {
            name: meta.name(),
            level: normal.as_ref().map_or(meta.level(), |m| m.level()).as_log(),
            target: match &normal {
                Some(normal) => Cow::Owned(normal.target().to_owned()),
                None => Cow::Borrowed(meta.target()),
            },
            file: meta.file().filter(|_| normal.is_none()),
            line: meta.line().filter(|_| normal.is_none()),
            message: fields.take_message(),
            fields,
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
                values.record(fields);
            }
        }
    }
}

impl Fields {
    fn take_message(&mut self) -> String {
        let found = self.0.iter().position(|(name, _)| *name == "message");
        found.map_or(String::new(), |at| self.0.remove(at).1)
    }

    fn add(&mut self, field: &Field, value: String) {
        // The `log` crate's own fields are in the metadata.
        if !field.name().starts_with("log.") {
            self.0.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
        self.add(field, text);
    }
}
