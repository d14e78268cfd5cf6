"""The three kinds of failure that meshd keeps apart (a fourth, `OSError`, belongs to the adapters only).

What a *peer* does wrong is a `DecodeError` (or a counted drop) and never ends anything but the message at hand. What a *user*
asks for and cannot have is a `UserError`: its text is the one line that the command line prints, so it says what is wrong and what
to do. What *we* do wrong is a `LocalProtocolError`: a bug in meshd, loud in tests.
"""

from __future__ import annotations

__all__ = ["DecodeError", "LocalProtocolError", "MeshdError", "UserError"]


class MeshdError(Exception):
    """Base of all errors that meshd raises itself."""


class DecodeError(MeshdError, ValueError):
    """Bytes from outside do not have the form they must have; nothing was changed by them."""


class LocalProtocolError(MeshdError):
    """meshd called itself in an order or with a value that its own contract forbids."""


class UserError(MeshdError):
    """The user asked for something that cannot be done; the text says why and what to do.

    `hint`: an optional second sentence, the command that mends it. `status`: the process exit status, 1 unless told.
    """

    def __init__(self, text: str, *, hint: str = "", status: int = 1) -> None:
        super().__init__(text)
        self.hint = hint
        self.status = status

    def __str__(self) -> str:
        text = str(self.args[0])
        return f"{text}; {self.hint}" if self.hint else text
