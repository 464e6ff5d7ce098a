"""The last line of a screen with keys of its own: those that apply now, each can be clicked. Made from its bindings."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding

from tui.actions import shown_key
from tui.lines import Choices


class KeyLine(Choices):
    """Shows the bindings that the screen itself has, and does what is clicked."""

    DEFAULT_CSS = "KeyLine { background: $footer-background; }"

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda screen: self.show())
        self.show()

    def on_resize(self) -> None:
        self.show()

    def show(self) -> None:
        hints = []
        own = {binding.id for binding in type(self.screen).BINDINGS if isinstance(binding, Binding)}
        seen: set[str] = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.id in own and active.enabled and binding.action not in seen and binding.show:
                seen.add(binding.action)
                text = Text()
                text.append(shown_key(binding.key), style="bold")
                text.append(f" {binding.description}", style="dim")
                hints.append((binding.action, text))
        self.offer(hints)

    async def on_choices_chosen(self, event: Choices.Chosen) -> None:
        event.stop()
        await self.screen.run_action(event.key)
