"""Tests of the control API: shapes, server and client, report and listings."""
