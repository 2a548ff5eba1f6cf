"""Pages for people: HTML, style sheets and ES modules of our own, and how they are served."""
