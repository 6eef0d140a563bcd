"""The Streamlit dashboard: studies, their history and their best configurations, read from the store."""
