"""The program that touches other people's media: FFmpeg's parsers and decoders run in a process of their own.

``python -m track2view.decoder REQUEST`` does one thing and ends. Damaged or hostile files can hang a decoder, crash it, or make it
take the machine's memory; here such a process is ended by its own alarm and its own limits, and :mod:`track2view.video`, which
starts it, tells the user in one line. Of this package, only errors are imported here, so that it starts in a tenth of a second.
"""
