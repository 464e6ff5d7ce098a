"""The two themes: few colours, each with a role, readable on their ground."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="omega-dark",
    primary="#7aa2c8",
    secondary="#8fa3b8",
    accent="#c4a7e7",
    foreground="#c8ccd4",
    background="#14171c",
    surface="#191d23",
    panel="#20252d",
    success="#8fbf7f",
    warning="#e0b060",
    error="#e07a7a",
    dark=True,
    variables={
        "border": "#353c47",
        "border-blurred": "#2a3038",
        "role-idle": "#8fbf7f",
        "role-busy": "#e0b060",
        "role-warning": "#e8c15a",
        "role-changing": "#7fb8c8",
        "role-frozen": "#7aa2e0",
        "role-dead": "#e07a7a",
        "cursor-line": "#29323f",
        "cursor-line-blurred": "#1f252e",
        "footer-background": "#191d23",
    },
)

LIGHT = Theme(
    name="omega-light",
    primary="#2f6690",
    secondary="#5a6b7b",
    accent="#6f42c1",
    foreground="#2b2f36",
    background="#fafafa",
    surface="#f2f3f5",
    panel="#e8eaee",
    success="#3c7a2e",
    warning="#94620a",
    error="#b23a3a",
    dark=False,
    variables={
        "border": "#c3c8d0",
        "border-blurred": "#d8dce2",
        "role-idle": "#3c7a2e",
        "role-busy": "#94620a",
        "role-warning": "#8a5a00",
        "role-changing": "#1f6f8b",
        "role-frozen": "#2f5fb3",
        "role-dead": "#b23a3a",
        "cursor-line": "#d9e4f0",
        "cursor-line-blurred": "#e8edf3",
        "footer-background": "#f2f3f5",
    },
)
